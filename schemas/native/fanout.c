/* Messages into a publishing ZeroMQ socket, whose subscribers must keep nobody waiting; see usbcast_schemas/fanout.py.
 *
 * Any call on a socket may first carry out what its peers have caused: libzmq queues commands for it, and one that a peer has
 * gone walks its whole tree of subscriptions. While commands wait, the socket's descriptor (ZMQ_FD) is readable. So a sender, which
 * holds the GIL, looks there first, and where anything waits it leaves its message to the thread that attends to the socket, which
 * has let go of the GIL. Whoever uses the socket holds `use`; a sender only ever tries to get it. */
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>

/* As usbcast_schemas/fanout.py, which says why. */
enum { MOST_WAITING = 512, MOST_SAID = 100, LOOK_MS = 1000 };

enum { MOST_INTERRUPTIONS = 1000 }; /* of one call, which waits for nothing: no process gets so many signals meanwhile */

PyTypeObject *fanout_type, *sender_type;

/* A message of two frames. */
typedef struct {
    Frame topic, body;
} Pair;

typedef struct {
    PyObject_HEAD
    void *socket; /* NULL if it is closed */
    int fd;
    int said; /* more has been said to it than was handed out */
    int made;
    pthread_mutex_t use;  /* of the socket */
    pthread_mutex_t list; /* of what follows; held for moments only */
    Pair *waiting;
    unsigned first, count;
    unsigned long long dropped;
} Fanout;

static int fanout_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Fanout *self = (Fanout *)object;
    unsigned long long address;
    size_t room = sizeof self->fd;
    if (!PyArg_ParseTuple(args, "K", &address))
        return -1;
    if (self->made) {
        PyErr_SetString(PyExc_TypeError, "a fan-out is made once");
        return -1;
    }
    void *socket = socket_at(address);
    if (socket == NULL)
        return -1;
    if (zmq.option(socket, FD, &self->fd, &room) < 0) {
        zmq_failed(zmq.error());
        return -1;
    }
    self->waiting = PyMem_Malloc(MOST_WAITING * sizeof *self->waiting);
    if (self->waiting == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    pthread_mutex_init(&self->use, NULL);
    pthread_mutex_init(&self->list, NULL);
    self->made = 1;
    self->socket = socket;
    return 0;
}

static void close_pair(Pair *pair)
{
    zmq.close(&pair->topic);
    zmq.close(&pair->body);
}

/* The oldest message that waits: 1; 0 if none does. */
static int take_waiting(Fanout *self, Pair *pair)
{
    pthread_mutex_lock(&self->list);
    int taken = self->count > 0;
    if (taken) {
        *pair = self->waiting[self->first]; /* what libzmq itself does to move one */
        self->first = (self->first + 1) % MOST_WAITING;
        STORE(&self->count, self->count - 1);
    }
    pthread_mutex_unlock(&self->list);
    return taken;
}

/* Have a message wait; where so many do already it is dropped, as a full queue of a subscriber would drop it. */
static void add_waiting(Fanout *self, Pair *pair)
{
    pthread_mutex_lock(&self->list);
    int fits = self->count < MOST_WAITING;
    if (fits) {
        self->waiting[(self->first + self->count) % MOST_WAITING] = *pair;
        STORE(&self->count, self->count + 1);
    } else {
        self->dropped++;
    }
    pthread_mutex_unlock(&self->list);
    if (!fits)
        close_pair(pair);
}

static void fanout_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Fanout *self = (Fanout *)object;
    if (self->made) {
        Pair pair;
        while (take_waiting(self, &pair))
            close_pair(&pair);
        pthread_mutex_destroy(&self->use);
        pthread_mutex_destroy(&self->list);
    }
    PyMem_Free(self->waiting);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int is_open(Fanout *self)
{
    if (self->socket == NULL)
        PyErr_SetString(PyExc_ValueError, "this fan-out is closed");
    return self->socket != NULL;
}

/* Whether a call on the socket would first carry out what peers have caused. */
static int has_commands(Fanout *self)
{
    struct pollfd look = {self->fd, POLLIN, 0};
    return poll(&look, 1, 0) != 0;
}

/* Have libzmq carry out what waits for it. A send may put that off, and then drop a message because a queue seems full. */
static void take_notice(Fanout *self)
{
    int events;
    size_t room = sizeof events;
    zmq.option(self->socket, EVENTS, &events, &room); /* whatever it answers, it has looked */
}

/* Send a frame without waiting: 0, or libzmq's reason; it is closed either way. */
static int send_frame(void *socket, Frame *frame, int flags)
{
    for (int times = 0; zmq.send(frame, socket, flags) < 0; times++) {
        int reason = zmq.error();
        if (reason != EINTR || times == MOST_INTERRUPTIONS) {
            zmq.close(frame);
            return reason;
        }
    }
    return 0;
}

static int send_pair(Fanout *self, Pair *pair)
{
    int reason = send_frame(self->socket, &pair->topic, DONTWAIT | SNDMORE);
    if (reason == 0)
        return send_frame(self->socket, &pair->body, DONTWAIT);
    zmq.close(&pair->body);
    return reason;
}

/* Send a message now or have it sent, in order: 0, or libzmq's reason. One sender at a time, as it holds the GIL. */
static int put(Fanout *self, Pair *pair)
{
    int reason = 0;
    if (LOAD(&self->count) == 0 && pthread_mutex_trylock(&self->use) == 0) {
        int goes = !has_commands(self);
        if (goes)
            reason = send_pair(self, pair);
        pthread_mutex_unlock(&self->use);
        if (goes)
            return reason;
    }
    add_waiting(self, pair);
    /* Whoever had the socket looks for what waits once more after giving it back: if it has not been given back by now, that is
     * still to come. Otherwise nobody may come, unless there are commands. */
    if (pthread_mutex_trylock(&self->use) == 0) {
        Pair next;
        while (reason == 0 && !has_commands(self) && take_waiting(self, &next))
            reason = send_pair(self, &next);
        pthread_mutex_unlock(&self->use);
    }
    return reason;
}

static int make_pair(Pair *pair, const Py_buffer *topic, const void *bytes, Py_ssize_t size)
{
    if (zmq.init_size(&pair->topic, (size_t)topic->len) < 0)
        return -1;
    if (zmq.init_size(&pair->body, (size_t)size) < 0) {
        zmq.close(&pair->topic);
        return -1;
    }
    memcpy(zmq.data(&pair->topic), topic->buf, (size_t)topic->len);
    memcpy(zmq.data(&pair->body), bytes, (size_t)size);
    return 0;
}

PyDoc_STRVAR(fanout_send_doc,
"send(first, second)\n\nSend a message of two frames, or leave it to who attends. Raises OSError where the socket does not take it.");

static PyObject *fanout_send(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Fanout *self = (Fanout *)object;
    Py_buffer first, second;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "send takes two frames");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &first, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[1], &second, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&first);
        return NULL;
    }
    Pair pair;
    int open = is_open(self), reason = 0;
    if (open)
        reason = make_pair(&pair, &first, second.buf, second.len) < 0 ? zmq.error() : put(self, &pair);
    PyBuffer_Release(&first);
    PyBuffer_Release(&second);
    if (!open)
        return NULL;
    if (reason)
        return zmq_failed(reason);
    Py_RETURN_NONE;
}

/* What subscribers have said, as a list of what it is and who said it; the frames are closed. */
static PyObject *list_of(Frame *frames, int count)
{
    PyObject *list = PyList_New(0);
    for (int at = 0; at < count; at++) {
        Frame *frame = &frames[at];
        PyObject *one = list ? Py_BuildValue("(izzy#)", zmq.property(frame, SRCFD), zmq.text(frame, "User-Id"),
                                             zmq.text(frame, "Peer-Address"), (const char *)zmq.data(frame),
                                             (Py_ssize_t)zmq.size(frame))
                             : NULL;
        if (list && (one == NULL || PyList_Append(list, one) < 0))
            Py_CLEAR(list);
        Py_XDECREF(one);
        zmq.close(frame);
    }
    return list;
}

PyDoc_STRVAR(fanout_attend_doc,
"attend(bell) -> what subscribers have said, each as (descriptor, User-Id, Peer-Address, bytes); empty if `bell` is readable\n\n"
"Waits for it without the GIL, and meanwhile carries out what peers cause and sends what waits. For one thread. Raises OSError.");

static PyObject *fanout_attend(PyObject *object, PyObject *arg)
{
    Fanout *self = (Fanout *)object;
    int bell = (int)PyLong_AsLong(arg), count = 0, rung = 0, reason = 0;
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    Frame frames[MOST_SAID];
    Py_BEGIN_ALLOW_THREADS
    do {
        struct pollfd look[2] = {{self->fd, POLLIN, 0}, {bell, POLLIN, 0}};
        int wait_ms = self->said || LOAD(&self->count) > 0 ? 0 : LOOK_MS;
        rung = poll(look, 2, wait_ms) > 0 && look[1].revents != 0;
        pthread_mutex_lock(&self->use);
        Pair pair;
        for (int most = MOST_WAITING; reason == 0 && most > 0 && take_waiting(self, &pair); most--) {
            if (has_commands(self))
                take_notice(self);
            reason = send_pair(self, &pair);
        }
        while (reason == 0 && count < MOST_SAID) {
            zmq.init(&frames[count]);
            reason = zmq.recv(&frames[count], self->socket, DONTWAIT) < 0 ? zmq.error() : 0;
            count += reason == 0;
        }
        pthread_mutex_unlock(&self->use);
        self->said = count == MOST_SAID;
        if (reason == EAGAIN || reason == EINTR)
            reason = 0;
    } while (reason == 0 && count == 0 && !rung);
    Py_END_ALLOW_THREADS
    PyObject *list = list_of(frames, count);
    if (reason) {
        Py_XDECREF(list);
        return zmq_failed(reason);
    }
    return list;
}

PyDoc_STRVAR(fanout_close_doc, "To be called before the socket is closed, and when nobody attends: it is not touched any more.");

static PyObject *fanout_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ((Fanout *)object)->socket = NULL;
    Py_RETURN_NONE;
}

static PyMethodDef fanout_methods[] = {
    {"send", (PyCFunction)(void (*)(void))fanout_send, METH_FASTCALL, fanout_send_doc},
    {"attend", fanout_attend, METH_O, fanout_attend_doc},
    {"close", fanout_close, METH_NOARGS, fanout_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef fanout_members[] = {
    {"dropped", T_ULONGLONG, offsetof(Fanout, dropped), READONLY, "messages for which there was no room to wait"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot fanout_slots[] = {
    {Py_tp_doc, "Fanout(address): messages into the publishing socket at this address, and the one thread that attends to it."},
    {Py_tp_init, fanout_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, fanout_dealloc},
    {Py_tp_methods, fanout_methods},
    {Py_tp_members, fanout_members},
    {0, NULL},
};

PyType_Spec fanout_spec = {"usbcast_schemas._native.Fanout", sizeof(Fanout), 0, Py_TPFLAGS_DEFAULT, fanout_slots};

/* ---- What sends on one topic ---- */

typedef struct {
    PyObject_HEAD
    PyObject *fanouts; /* a tuple */
    Py_buffer topic;
} Sender;

static int sender_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Sender *self = (Sender *)object;
    PyObject *fanouts, *topic;
    if (!PyArg_ParseTuple(args, "O!S", &PyTuple_Type, &fanouts, &topic))
        return -1;
    for (Py_ssize_t at = 0; at < PyTuple_Size(fanouts); at++)
        if (Py_TYPE(PyTuple_GetItem(fanouts, at)) != fanout_type) {
            PyErr_SetString(PyExc_TypeError, "a sender sends through Fanouts");
            return -1;
        }
    if (self->fanouts) {
        PyErr_SetString(PyExc_TypeError, "a sender is made once");
        return -1;
    }
    if (PyObject_GetBuffer(topic, &self->topic, PyBUF_SIMPLE) < 0)
        return -1;
    Py_INCREF(fanouts);
    self->fanouts = fanouts;
    return 0;
}

static void sender_dealloc(PyObject *object)
{
    Sender *self = (Sender *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->fanouts);
    PyBuffer_Release(&self->topic);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* Send a body on the topic of `sender`: 0, or -1 with an exception. */
int send_by(PyObject *sender, const void *bytes, Py_ssize_t size)
{
    Sender *self = (Sender *)sender;
    Py_ssize_t count = PyTuple_Size(self->fanouts);
    int reason = 0;
    Pair pair;
    if (count == 0)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (!is_open((Fanout *)PyTuple_GetItem(self->fanouts, at)))
            return -1;
    if (make_pair(&pair, &self->topic, bytes, size) < 0) {
        zmq_failed(zmq.error());
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        Pair copy = pair;
        if (at < count - 1) { /* the last one takes the bytes themselves */
            zmq.init(&copy.topic);
            zmq.init(&copy.body);
            zmq.copy(&copy.topic, &pair.topic);
            zmq.copy(&copy.body, &pair.body);
        }
        int failed = put((Fanout *)PyTuple_GetItem(self->fanouts, at), &copy);
        reason = reason ? reason : failed;
    }
    if (reason)
        zmq_failed(reason);
    return reason ? -1 : 0;
}

static PyObject *sender_call(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Py_buffer body;
    if (!PyArg_ParseTuple(args, "y*", &body))
        return NULL;
    int done = send_by(object, body.buf, body.len);
    PyBuffer_Release(&body);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, "Sender(fanouts, topic): called with a body, it sends it on that topic through each of them."},
    {Py_tp_init, sender_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_call, sender_call},
    {0, NULL},
};

PyType_Spec sender_spec = {"usbcast_schemas._native.Sender", sizeof(Sender), 0, Py_TPFLAGS_DEFAULT, sender_slots};
