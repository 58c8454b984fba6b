/* Messages that come out of a ZeroMQ socket: pyzmq makes the sockets, sets them up and closes them; what goes through them at every
 * batch goes past it. fanout.c has those that go in. */
#include "binding.h"

#include <stddef.h>

PyTypeObject *messages_type;

const char find_libzmq_doc[] =
"find_libzmq(path) -> whether the library at this path leads to the functions of libzmq that Messages needs";

PyObject *find_libzmq(PyObject *Py_UNUSED(module), PyObject *path)
{
    PyObject *encoded = NULL;
    if (!PyUnicode_FSConverter(path, &encoded))
        return NULL;
    int found = usbcast_find_libzmq(PyBytes_AsString(encoded));
    Py_DECREF(encoded);
    return PyBool_FromLong(found);
}

/* An address that Python gave of a socket: NULL with an exception if it is of no use. */
void *socket_at(unsigned long long address)
{
    int found = usbcast_has_libzmq();
    if (!found || address == 0)
        PyErr_SetString(PyExc_ValueError, found ? "there is no socket at 0" : "libzmq was not found: call find_libzmq");
    return found ? (void *)(uintptr_t)address : NULL;
}

/* An OSError of libzmq's `reason`; NULL. */
PyObject *zmq_failed(int reason)
{
    PyObject *error = Py_BuildValue("is", reason, usbcast_zmq.words(reason));
    if (error)
        PyErr_SetObject(PyExc_OSError, error);
    Py_XDECREF(error);
    return NULL;
}

/* ---- A received frame that stays where libzmq has it ---- */

typedef struct {
    PyObject_HEAD
    UsbcastFrame frame;
} Held;

static PyTypeObject *held_type;

static int held_buffer(PyObject *object, Py_buffer *view, int flags)
{
    Held *self = (Held *)object;
    return PyBuffer_FillInfo(view, object, usbcast_zmq.data(&self->frame), (Py_ssize_t)usbcast_zmq.size(&self->frame), 1, flags);
}

static void held_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    usbcast_zmq.close(&((Held *)object)->frame);
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
static PyObject *taken_out(UsbcastFrame *frame)
{
    size_t size = usbcast_zmq.size(frame);
    if (size < IN_PLACE_BYTES) {
        PyObject *copy = PyBytes_FromStringAndSize(usbcast_zmq.data(frame), (Py_ssize_t)size);
        usbcast_zmq.close(frame);
        return copy;
    }
    Held *held = (Held *)((allocfunc)PyType_GetSlot(held_type, Py_tp_alloc))(held_type, 0);
    if (held == NULL) {
        usbcast_zmq.close(frame);
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

/* What a signal's handler raised ends the call. */
static int signal_raised(void)
{
    return PyErr_CheckSignals() < 0;
}

static int is_open(Messages *self)
{
    if (self->socket == NULL)
        PyErr_SetString(PyExc_ValueError, "these messages are closed");
    return self->socket != NULL;
}

/* These frames, which are closed, and those behind them of the same message, as a list of objects. */
static PyObject *others(Messages *self, UsbcastFrame *frames, int count)
{
    PyObject *list = PyList_New(0);
    int more = count > 0 && usbcast_zmq.more(&frames[count - 1]);
    for (int at = 0; at < count; at++) {
        PyObject *object = taken_out(&frames[at]);
        if (list == NULL || object == NULL || PyList_Append(list, object) < 0)
            Py_CLEAR(list);
        Py_XDECREF(object);
    }
    while (more && list) { /* the frames of a message come together */
        UsbcastFrame frame;
        int came = usbcast_receive_frame(self->socket, &frame, signal_raised);
        more = came > 0 && usbcast_zmq.more(&frame);
        PyObject *object = came > 0 ? taken_out(&frame) : NULL;
        if (came < 0)
            failed(came);
        if (came < 0 || (came > 0 && (object == NULL || PyList_Append(list, object) < 0)))
            Py_CLEAR(list);
        Py_XDECREF(object);
    }
    return list;
}

/* The next message into `frames`, if it has two: 1. Else 0, and -1 with an exception; what has another number is left. */
static int receive_pair(Messages *self, UsbcastFrame *frames)
{
    self->drained = 0;
    int came = usbcast_receive_pair(self->socket, frames, signal_raised);
    if (came < 0) {
        failed(came);
        return -1;
    }
    self->drained = came == 0;
    if (came == 0)
        return 0;
    if (came == 2 && !usbcast_zmq.more(&frames[1]))
        return 1;
    self->left = others(self, frames, came);
    return self->left ? 0 : -1;
}

/* The second frame of the next message, if its first is `topic`, it has two, and `fits` says so of the second; NULL without an
 * exception otherwise: then what has come is left. Of what is closed nothing comes. */
PyObject *receive_message(Messages *self, const Py_buffer *topic, int (*fits)(void *, const unsigned char *, Py_ssize_t), void *about)
{
    UsbcastFrame frames[2];
    if (self->socket == NULL || self->left || receive_pair(self, frames) <= 0)
        return NULL;
    int wanted = usbcast_zmq.size(&frames[0]) == (size_t)topic->len && memcmp(usbcast_zmq.data(&frames[0]), topic->buf, (size_t)topic->len) == 0;
    if (!wanted || !fits(about, usbcast_zmq.data(&frames[1]), (Py_ssize_t)usbcast_zmq.size(&frames[1]))) {
        self->left = others(self, frames, 2);
        return NULL;
    }
    usbcast_zmq.close(&frames[0]);
    return taken_out(&frames[1]);
}

PyDoc_STRVAR(messages_receive_doc,
"receive() -> the frames of the next message, bytes or views of where libzmq has them; None if none has come\n\n"
"What was left comes first. Raises OSError.");

static PyObject *messages_receive(PyObject *object, PyObject *Py_UNUSED(none))
{
    Messages *self = (Messages *)object;
    UsbcastFrame frames[2];
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
