/* Messages that come out of a ZeroMQ socket: pyzmq makes the sockets, sets them up and closes them; what goes through them at every
 * batch goes past it, by the functions of the libzmq that it has loaded. fanout.c has those that go in. */
#include "core.h"

#include <errno.h>
#include <stddef.h>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

/* As usbcast_schemas/messages.py, which says why. */
enum { IN_PLACE_BYTES = 64 * 1024 };

enum { MOST_INTERRUPTIONS = 1000 }; /* of one call, which waits for nothing: no process gets so many signals meanwhile */

PyTypeObject *messages_type;

enum { OLDEST_MAJOR = 4, OLDEST_MINOR = 2 };

Zmq zmq;

static int found; /* whether they were */

const char find_libzmq_doc[] =
"find_libzmq(path) -> whether the library at this path leads to the functions of libzmq that Messages needs";

PyObject *find_libzmq(PyObject *Py_UNUSED(module), PyObject *path)
{
    PyObject *encoded = NULL;
    if (!PyUnicode_FSConverter(path, &encoded))
        return NULL;
#if defined(__unix__) || defined(__APPLE__)
    struct {
        const char *name;
        void *place;
    } wanted[] = {
        {"zmq_msg_init", &zmq.init},   {"zmq_msg_init_size", &zmq.init_size}, {"zmq_msg_data", &zmq.data},
        {"zmq_msg_size", &zmq.size},   {"zmq_msg_more", &zmq.more},           {"zmq_msg_send", &zmq.send},
        {"zmq_msg_recv", &zmq.recv},   {"zmq_msg_close", &zmq.close},         {"zmq_errno", &zmq.error},
        {"zmq_strerror", &zmq.words},  {"zmq_getsockopt", &zmq.option},       {"zmq_msg_copy", &zmq.copy},
        {"zmq_msg_get", &zmq.property}, {"zmq_msg_gets", &zmq.text},
    };
    void *library = found ? NULL : dlopen(PyBytes_AsString(encoded), RTLD_LAZY);
    void *version = library ? dlsym(library, "zmq_version") : NULL;
    if (version) {
        void (*tell)(int *, int *, int *);
        int major = 0, minor = 0, patch = 0;
        memcpy(&tell, &version, sizeof tell);
        tell(&major, &minor, &patch);
        found = major == OLDEST_MAJOR && minor >= OLDEST_MINOR; /* a zmq_msg_t is 64 bytes in all of these */
        for (size_t at = 0; found && at < sizeof wanted / sizeof *wanted; at++) {
            void *function = dlsym(library, wanted[at].name);
            memcpy(wanted[at].place, &function, sizeof function);
            found = function != NULL;
        }
    }
#endif
    Py_DECREF(encoded);
    return PyBool_FromLong(found);
}

/* An address that Python gave of a socket: NULL with an exception if it is of no use. */
void *socket_at(unsigned long long address)
{
    if (!found || address == 0)
        PyErr_SetString(PyExc_ValueError, found ? "there is no socket at 0" : "libzmq was not found: call find_libzmq");
    return found ? (void *)(uintptr_t)address : NULL;
}

/* An OSError of libzmq's `reason`; NULL. */
PyObject *zmq_failed(int reason)
{
    PyObject *error = Py_BuildValue("is", reason, zmq.words(reason));
    if (error)
        PyErr_SetObject(PyExc_OSError, error);
    Py_XDECREF(error);
    return NULL;
}

/* ---- A received frame that stays where libzmq has it ---- */

typedef struct {
    PyObject_HEAD
    Frame frame;
} Held;

static PyTypeObject *held_type;

static int held_buffer(PyObject *object, Py_buffer *view, int flags)
{
    Held *self = (Held *)object;
    return PyBuffer_FillInfo(view, object, zmq.data(&self->frame), (Py_ssize_t)zmq.size(&self->frame), 1, flags);
}

static void held_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    zmq.close(&((Held *)object)->frame);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyType_Slot held_slots[] = {
    {Py_tp_doc, "A received frame, read only."},
    {Py_tp_dealloc, held_dealloc},
    {Py_bf_getbuffer, held_buffer},
    {0, NULL},
};

static PyType_Spec held_spec = {"usbcast_schemas._native.Held", sizeof(Held), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, held_slots};

/* What the frame holds, as bytes or as a view of where it is; the frame is closed, or given away. */
static PyObject *taken_out(Frame *frame)
{
    size_t size = zmq.size(frame);
    if (size < IN_PLACE_BYTES) {
        PyObject *copy = PyBytes_FromStringAndSize(zmq.data(frame), (Py_ssize_t)size);
        zmq.close(frame);
        return copy;
    }
    Held *held = (Held *)((allocfunc)PyType_GetSlot(held_type, Py_tp_alloc))(held_type, 0);
    if (held == NULL) {
        zmq.close(frame);
        return NULL;
    }
    held->frame = *frame; /* what libzmq itself does to move one */
    PyObject *view = PyMemoryView_FromObject((PyObject *)held);
    Py_DECREF(held);
    return view;
}

/* ---- A socket's messages ---- */

static int messages_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Messages *self = (Messages *)object;
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "K", &address))
        return -1;
    self->socket = socket_at(address);
    return self->socket ? 0 : -1;
}

static void messages_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(((Messages *)object)->left);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* Whether a call that failed is to be made again: it was interrupted by a signal, whose handler has then run. -1 with an exception
 * if that raised one, or if there is no end to it: in a forked process libzmq says so of each of its parent's sockets. */
static int is_interrupted(int *times)
{
    if (zmq.error() != EINTR)
        return 0;
    if (PyErr_CheckSignals() < 0)
        return -1;
    if (++*times < MOST_INTERRUPTIONS)
        return 1;
    zmq_failed(zmq.error());
    return -1;
}

static int is_open(Messages *self)
{
    if (self->socket == NULL)
        PyErr_SetString(PyExc_ValueError, "these messages are closed");
    return self->socket != NULL;
}

/* The next frame: 1; 0 if none has come, -1 with an exception. */
static int receive_frame(Messages *self, Frame *frame)
{
    int times = 0;
    zmq.init(frame);
    while (zmq.recv(frame, self->socket, DONTWAIT) < 0) {
        int again = is_interrupted(&times), nothing = again == 0 && zmq.error() == EAGAIN;
        if (again > 0)
            continue;
        if (again == 0 && !nothing)
            zmq_failed(zmq.error());
        zmq.close(frame);
        return nothing ? 0 : -1;
    }
    return 1;
}

/* These frames, which are closed, and those behind them of the same message, as a list of objects. */
static PyObject *others(Messages *self, Frame *frames, int count)
{
    PyObject *list = PyList_New(0);
    int more = count > 0 && zmq.more(&frames[count - 1]);
    for (int at = 0; at < count; at++) {
        PyObject *object = taken_out(&frames[at]);
        if (list == NULL || object == NULL || PyList_Append(list, object) < 0)
            Py_CLEAR(list);
        Py_XDECREF(object);
    }
    while (more && list) { /* the frames of a message come together */
        Frame frame;
        int came = receive_frame(self, &frame);
        more = came > 0 && zmq.more(&frame);
        PyObject *object = came > 0 ? taken_out(&frame) : NULL;
        if (came < 0 || (came > 0 && (object == NULL || PyList_Append(list, object) < 0)))
            Py_CLEAR(list);
        Py_XDECREF(object);
    }
    return list;
}

/* The next message into `frames`, if it has two: 1. Else 0, and -1 with an exception; what has another number is left. */
static int receive_pair(Messages *self, Frame *frames)
{
    self->drained = 0;
    int came = receive_frame(self, &frames[0]);
    if (came <= 0) {
        self->drained = came == 0;
        return came;
    }
    int count = 1;
    if (zmq.more(&frames[0])) {
        came = receive_frame(self, &frames[1]);
        if (came < 0) {
            zmq.close(&frames[0]);
            return -1;
        }
        count += came;
    }
    if (count == 2 && !zmq.more(&frames[1]))
        return 1;
    self->left = others(self, frames, count);
    return self->left ? 0 : -1;
}

/* The second frame of the next message, if its first is `topic`, it has two, and `fits` says so of the second; NULL without an
 * exception otherwise: then what has come is left. Of what is closed nothing comes. */
PyObject *receive_message(Messages *self, const Py_buffer *topic, int (*fits)(void *, const unsigned char *, Py_ssize_t), void *about)
{
    Frame frames[2];
    if (self->socket == NULL || self->left || receive_pair(self, frames) <= 0)
        return NULL;
    int wanted = zmq.size(&frames[0]) == (size_t)topic->len && memcmp(zmq.data(&frames[0]), topic->buf, (size_t)topic->len) == 0;
    if (!wanted || !fits(about, zmq.data(&frames[1]), (Py_ssize_t)zmq.size(&frames[1]))) {
        self->left = others(self, frames, 2);
        return NULL;
    }
    zmq.close(&frames[0]);
    return taken_out(&frames[1]);
}

PyDoc_STRVAR(messages_receive_doc,
"receive() -> the frames of the next message, bytes or views of where libzmq has them; None if none has come\n\n"
"What was left comes first. Raises OSError.");

static PyObject *messages_receive(PyObject *object, PyObject *Py_UNUSED(none))
{
    Messages *self = (Messages *)object;
    Frame frames[2];
    if (!is_open(self))
        return NULL;
    if (self->left == NULL) {
        int came = receive_pair(self, frames);
        if (came < 0)
            return NULL;
        if (came > 0)
            return others(self, frames, 2);
        if (self->left == NULL)
            Py_RETURN_NONE;
    }
    PyObject *left = self->left;
    self->left = NULL;
    return left;
}

PyDoc_STRVAR(messages_close_doc, "To be called before the socket is closed: it is not touched any more.");

static PyObject *messages_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ((Messages *)object)->socket = NULL;
    Py_RETURN_NONE;
}

static PyObject *messages_left_over(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((Messages *)object)->left != NULL);
}

static PyMethodDef messages_methods[] = {
    {"receive", messages_receive, METH_NOARGS, messages_receive_doc},
    {"close", messages_close, METH_NOARGS, messages_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef messages_members[] = {
    {"drained", T_BOOL, offsetof(Messages, drained), 0, "whether nothing more had come when it was looked last"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef messages_properties[] = {
    {"left_over", messages_left_over, NULL, "whether a message that has come is still to be received", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot messages_slots[] = {
    {Py_tp_doc, "Messages(address): what comes out of the socket at this address, which one thread at a time uses."},
    {Py_tp_init, messages_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, messages_dealloc},
    {Py_tp_methods, messages_methods},
    {Py_tp_members, messages_members},
    {Py_tp_getset, messages_properties},
    {0, NULL},
};

PyType_Spec messages_spec = {"usbcast_schemas._native.Messages", sizeof(Messages), 0, Py_TPFLAGS_DEFAULT, messages_slots};

int messages_ready(void)
{
    held_type = (PyTypeObject *)PyType_FromSpec(&held_spec);
    return held_type ? 0 : -1;
}
