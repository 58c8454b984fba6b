/* From the ring, or a socket, to the application: a reader's short way. */
#include "binding.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>

#if defined(__linux__)
#include <sys/epoll.h>
#endif

static PyObject *s_encoded, *s_context, *s_skip, *s_gaps;

int follower_ready(void)
{
    s_encoded = PyUnicode_InternFromString("_encoded");
    s_context = PyUnicode_InternFromString("_context");
    s_skip = PyUnicode_InternFromString("_skip");
    s_gaps = PyUnicode_InternFromString("gaps");
    return PyErr_Occurred() ? -1 : 0;
}

typedef struct {
    PyObject_HEAD
    Ring *ring;         /* one of the two */
    Messages *messages;
    Py_buffer topic; /* of those that are batches */
    Asked asked;
    UsbcastNext next;
    uint64_t at;
    char open;
    char refused; /* what comes next has to be looked at by somebody else */
    char dozed;   /* it was slept, and nothing has come since */
    int due;      /* somebody else has something to do before more is taken */
    int64_t until_ns, doze_until_ns;
    PyObject *loaned; /* what was handed out in place last; it counts as delivered when it is given back whole */
    uint64_t lent_slot, lent_packets;
    uint64_t batches, packets, delivered;
    UsbcastTaken last;
    int64_t last_ns;
} Follower;

static int follower_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Follower *self = (Follower *)object;
    PyObject *source, *topic, *batch, *arrivals;
    Maker *maker;
    unsigned long long most_bytes;
    unsigned int major;
    if (!PyArg_ParseTuple(args, "OSKIOO!", &source, &topic, &most_bytes, &major, &batch, &PyType_Type, &arrivals))
        return -1;
    int of_ring = Py_TYPE(source) == ring_type;
    if (self->asked.batch || (!of_ring && Py_TYPE(source) != messages_type)) {
        PyErr_SetString(PyExc_TypeError, "a follower is made once, and of a Ring or of Messages");
        return -1;
    }
    maker = as_maker(batch, GIVEN_OF_BATCH, GIVEN_IN_PLACE);
    if (maker == NULL || PyObject_GetBuffer(topic, &self->topic, PyBUF_SIMPLE) < 0)
        return -1;
    Py_INCREF(source);
    Py_INCREF(batch);
    Py_INCREF(arrivals);
    self->ring = of_ring ? (Ring *)source : NULL;
    self->messages = of_ring ? NULL : (Messages *)source;
    self->asked = (Asked){most_bytes, major, maker, (PyTypeObject *)arrivals, &self->next};
    return 0;
}

static void follower_dealloc(PyObject *object)
{
    Follower *self = (Follower *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->messages);
    PyBuffer_Release(&self->topic);
    Py_XDECREF((PyObject *)self->asked.batch);
    Py_XDECREF((PyObject *)self->asked.arrivals);
    Py_XDECREF(self->loaned);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(follower_open_doc,
"open(slot, epoch, number, first_sequence, until_ns, doze_until_ns) -> whether there is something in the slot\n\n"
"From now on, until it is closed, `next` takes what goes on there; the slot is of a ring. Times are of time.monotonic_ns().");

static PyObject *follower_open(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 6) {
        PyErr_SetString(PyExc_TypeError, "open takes six numbers");
        return NULL;
    }
    self->at = PyLong_AsUnsignedLongLong(args[0]);
    self->next.epoch = PyLong_AsUnsignedLongLong(args[1]);
    self->next.number = PyLong_AsUnsignedLongLong(args[2]);
    self->next.first = PyLong_AsUnsignedLongLong(args[3]);
    self->until_ns = PyLong_AsLongLong(args[4]);
    self->doze_until_ns = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred() || (self->ring && !ring_is_open(self->ring)))
        return NULL;
    self->open = 1;
    self->refused = self->dozed = self->due = 0;
    return PyBool_FromLong(self->ring && usbcast_ring_head(&self->ring->core) > self->at);
}

/* `encoded` as the application sees it: an object of `type` with four attributes. */
static PyObject *wrapped(PyObject *encoded, PyTypeObject *type, PyObject *context)
{
    PyObject *nothing = PyTuple_New(0), *zero = PyLong_FromLong(0);
    PyObject *made = nothing && zero ? ((newfunc)PyType_GetSlot(type, Py_tp_new))(type, nothing, NULL) : NULL;
    if (made && (PyObject_SetAttr(made, s_encoded, encoded) < 0 || PyObject_SetAttr(made, s_context, context) < 0 ||
                 PyObject_SetAttr(made, s_skip, zero) < 0 || PyObject_SetAttr(made, s_gaps, nothing) < 0))
        Py_CLEAR(made);
    Py_XDECREF(nothing);
    Py_XDECREF(zero);
    Py_DECREF(encoded);
    return made;
}

/* What is handed out, as the application sees it if that is asked for, and counted. */
static PyObject *handed_out(Follower *self, PyObject *batch, const UsbcastTaken *taken, PyObject *const *args, Py_ssize_t given)
{
    PyObject *made = given ? wrapped(batch, (PyTypeObject *)args[0], args[1]) : batch;
    if (made == NULL)
        return NULL;
    self->last = *taken;
    self->last_ns = (int64_t)usbcast_now_ns();
    self->due = self->last_ns >= self->until_ns;
    self->dozed = 0;
    self->batches++;
    self->packets += taken->packets;
    self->next.number++;
    self->next.first += taken->packets;
    if (!is_in_place(&self->asked))
        self->delivered += taken->packets;
    else {
        Py_INCREF(made);
        self->loaned = made;
        self->lent_slot = self->at;
        self->lent_packets = taken->packets;
    }
    self->at++;
    return made;
}

/* Who asks for more is through with what was loaned: 1 if it was whole to the end. */
static int give_back(Follower *self)
{
    if (self->loaned == NULL)
        return 1;
    if (usbcast_ring_tail(&self->ring->core) > self->lent_slot)
        return 0;
    self->delivered += self->lent_packets;
    Py_CLEAR(self->loaned);
    return 1;
}

/* Of a message: whether it is what is taken here, and what of it is to be counted. */
typedef struct {
    const Follower *of;
    UsbcastPlain plain;
    UsbcastTaken taken;
} Pushed;

static int is_simple(void *about, const unsigned char *bytes, Py_ssize_t size)
{
    Pushed *pushed = about;
    pushed->plain = usbcast_plain_layout(bytes, bytes, size, pushed->of->asked.major);
    if (pushed->plain.arrivals == 0 || !usbcast_is_next(bytes, &pushed->of->next))
        return 0;
    pushed->taken = usbcast_taken_of(bytes, bytes, &pushed->plain);
    return 1;
}

static PyObject *next_message(Follower *self, PyObject *const *args, Py_ssize_t given)
{
    Pushed pushed = {.of = self};
    PyObject *raw = receive_message(self->messages, &self->topic, is_simple, &pushed);
    if (raw == NULL) {
        if (PyErr_Occurred())
            return NULL;
        self->refused = self->messages->left != NULL;
        Py_RETURN_NONE;
    }
    Py_buffer view;
    PyObject *batch = NULL;
    if (PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE) == 0) {
        batch = decoded_bytes(raw, view.buf, view.len, &pushed.plain, self->asked.batch, self->asked.arrivals);
        PyBuffer_Release(&view);
    }
    Py_DECREF(raw);
    return batch ? handed_out(self, batch, &pushed.taken, args, given) : NULL;
}

PyDoc_STRVAR(follower_next_doc,
"next() -> EncodedBatch; next(Batch, context) -> Batch; None if there is none, or none that is so simple\n\n"
"The batch in the next slot, or the next message if it is on the topic, if it holds packets of one size with their arrivals and\n"
"nothing else, and goes on where the one before it ended. The first one that is taken from until_ns on is the last.");

static PyObject *follower_next(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 0 && (given != 2 || !PyType_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "next takes nothing, or a type and a context");
        return NULL;
    }
    if (!self->open || self->due)
        Py_RETURN_NONE;
    if (self->messages)
        return next_message(self, args, given);
    if (!self->ring || !self->ring->open)
        Py_RETURN_NONE;
    if (!give_back(self)) {
        self->due = 1;
        Py_RETURN_NONE;
    }
    if (usbcast_ring_head(&self->ring->core) <= self->at)
        Py_RETURN_NONE;
    UsbcastTaken taken;
    PyObject *batch = take_slot(self->ring, self->at, &self->asked, &taken);
    if (batch == Py_None)
        self->refused = 1;
    if (batch == NULL || batch == Py_None)
        return batch;
    return handed_out(self, batch, &taken, args, given);
}

/* For how long one may sleep; the flag is then raised that has the writer wake who sleeps. */
static int64_t doze_ns(Follower *self)
{
    int64_t rest_ns = 0;
    if (self->open && self->ring && self->ring->open && !self->due && !self->dozed && !self->refused && give_back(self) &&
        usbcast_ring_head(&self->ring->core) == self->at && !spin_waited(self->ring, self->at, USBCAST_SPIN_WAIT_NS))
        rest_ns = self->doze_until_ns - (int64_t)usbcast_now_ns();
    if (rest_ns <= 0 || !self->ring->open || !usbcast_ring_will_sleep(&self->ring->core, self->at))
        return 0;
    self->dozed = 1;
    return rest_ns;
}

PyDoc_STRVAR(follower_doze_doc,
"doze() -> for how many seconds one may sleep; 0.0 if one may not, or something else than a batch has woken last time\n\n"
"The flag is then raised that has the writer wake who sleeps.");

static PyObject *follower_doze(PyObject *object, PyObject *Py_UNUSED(none))
{
    return PyFloat_FromDouble((double)doze_ns((Follower *)object) / 1e9);
}

#if defined(__linux__)
/* Wait on an epoll: 1 if there was something, 0 if the time is up, -1 with an exception if a signal's handler raised one. */
static int wait_for(int epoll, int64_t most_ns)
{
    struct epoll_event events[8];
    int64_t until_ns = (int64_t)usbcast_now_ns() + most_ns;
    for (;;) {
        int64_t rest_ns = until_ns - (int64_t)usbcast_now_ns(), rest_ms = rest_ns > 0 ? (rest_ns + 999999) / 1000000 : 0;
        int found, reason;
        Py_BEGIN_ALLOW_THREADS
        found = epoll_wait(epoll, events, 8, rest_ms > INT_MAX ? INT_MAX : (int)rest_ms);
        reason = errno;
        Py_END_ALLOW_THREADS
        if (found >= 0)
            return found > 0;
        errno = reason;
        if (reason != EINTR)
            PyErr_SetFromErrno(PyExc_OSError);
        if (reason != EINTR || PyErr_CheckSignals() < 0)
            return -1;
    }
}
#endif

PyDoc_STRVAR(follower_wait_doc,
"wait(epoll, most_s, Batch, context) -> as next(Batch, context), after a sleep\n\n"
"None at once if one may not doze. It is slept until something comes for one of what is watched by that descriptor.");

static PyObject *follower_wait(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "wait takes a descriptor, a number, a type and a context");
        return NULL;
    }
    int epoll = (int)PyLong_AsLong(args[0]);
    double most_s = PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred())
        return NULL;
#if defined(__linux__)
    int64_t rest_ns = doze_ns(self);
    if (rest_ns > 0) {
        if (most_s < (double)rest_ns / 1e9)
            rest_ns = most_s > 0 ? (int64_t)(most_s * 1e9) : 0;
        int woken = wait_for(epoll, rest_ns);
        return woken < 0 ? NULL : follower_next(object, args + 2, 2);
    }
#else
    (void)self, (void)epoll, (void)most_s;
#endif
    Py_RETURN_NONE;
}

PyDoc_STRVAR(follower_close_doc,
"close() -> (batches, packets, delivered, realtime_ns, monotonic_ns, taken_ns, loaned), or None if there is nothing to say\n\n"
"Nothing more is taken. How many batches and packets were, since it was closed last; how many packets of them are delivered;\n"
"the last one's arrival, and when it was taken; and what was handed out in place and has not been given back, or None.");

static PyObject *follower_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    Follower *self = (Follower *)object;
    self->open = 0;
    if (self->batches == 0 && self->delivered == 0 && self->loaned == NULL)
        Py_RETURN_NONE;
    PyObject *loaned = self->loaned ? self->loaned : Py_None;
    PyObject *told = Py_BuildValue("KKKLLLO", (unsigned long long)self->batches, (unsigned long long)self->packets,
                                   (unsigned long long)self->delivered, (long long)self->last.realtime_ns,
                                   (long long)self->last.monotonic_ns, (long long)self->last_ns, loaned);
    if (told) {
        Py_CLEAR(self->loaned);
        self->batches = self->packets = self->delivered = 0;
    }
    return told;
}

static PyMethodDef follower_methods[] = {
    {"open", (PyCFunction)(void (*)(void))follower_open, METH_FASTCALL, follower_open_doc},
    {"next", (PyCFunction)(void (*)(void))follower_next, METH_FASTCALL, follower_next_doc},
    {"wait", (PyCFunction)(void (*)(void))follower_wait, METH_FASTCALL, follower_wait_doc},
    {"doze", follower_doze, METH_NOARGS, follower_doze_doc},
    {"close", follower_close, METH_NOARGS, follower_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef follower_members[] = {
    {"refused", T_BOOL, offsetof(Follower, refused), READONLY, "whether there was something that is not so simple"},
    {"is_open", T_BOOL, offsetof(Follower, open), READONLY, "whether it takes what comes"},
    {"dozed", T_BOOL, offsetof(Follower, dozed), READONLY, "whether it was slept, and nothing was taken since"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot follower_slots[] = {
    {Py_tp_doc, "Follower(source, topic, most_bytes, major, batch, Arrivals): takes what simply follows, one by one, out of a\n"
                 "Ring or of the Messages on a topic."},
    {Py_tp_init, follower_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, follower_dealloc},
    {Py_tp_methods, follower_methods},
    {Py_tp_members, follower_members},
    {0, NULL},
};

PyType_Spec follower_spec = {"usbcast_schemas._native.Follower", sizeof(Follower), 0, Py_TPFLAGS_DEFAULT, follower_slots};
