/* Messages into a publishing ZeroMQ socket, as objects. */
#include "binding.h"

#include <stddef.h>

PyTypeObject *fanout_type, *sender_type;

typedef struct {
    PyObject_HEAD
    UsbcastFanout *core; /* NULL before it is made */
    int open;
} Fanout;

static int fanout_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Fanout *self = (Fanout *)object;
    unsigned long long address;
    int error = 0;
    if (!PyArg_ParseTuple(args, "K", &address))
        return -1;
    if (self->core) {
        PyErr_SetString(PyExc_TypeError, "a fan-out is made once");
        return -1;
    }
    void *socket = socket_at(address);
    if (socket == NULL)
        return -1;
    self->core = usbcast_fanout_new(socket, &error);
    if (self->core == NULL)
        failed(error);
    self->open = self->core != NULL;
    return self->core ? 0 : -1;
}

static void fanout_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    Fanout *self = (Fanout *)object;
    if (self->core)
        usbcast_fanout_free(self->core);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int is_open(Fanout *self)
{
    if (!self->open)
        PyErr_SetString(PyExc_ValueError, "this fan-out is closed");
    return self->open;
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
    UsbcastPair pair;
    int open = is_open(self), reason = 0;
    if (open && usbcast_make_pair(&pair, first.buf, (size_t)first.len, second.buf, (size_t)second.len) < 0)
        reason = usbcast_zmq.error();
    else if (open)
        reason = usbcast_fanout_put(self->core, &pair);
    PyBuffer_Release(&first);
    PyBuffer_Release(&second);
    if (!open)
        return NULL;
    if (reason)
        return zmq_failed(reason);
    Py_RETURN_NONE;
}

/* What subscribers have said, as a list of what it is and who said it; the frames are closed. */
static PyObject *list_of(UsbcastFrame *frames, int count)
{
    PyObject *list = PyList_New(0);
    for (int at = 0; at < count; at++) {
        UsbcastFrame *frame = &frames[at];
        PyObject *one = list ? Py_BuildValue("(izzy#)", usbcast_zmq.property(frame, USBCAST_ZMQ_SRCFD), usbcast_zmq.text(frame, "User-Id"),
                                             usbcast_zmq.text(frame, "Peer-Address"), (const char *)usbcast_zmq.data(frame),
                                             (Py_ssize_t)usbcast_zmq.size(frame))
                             : NULL;
        if (list && (one == NULL || PyList_Append(list, one) < 0))
            Py_CLEAR(list);
        Py_XDECREF(one);
        usbcast_zmq.close(frame);
    }
    return list;
}

PyDoc_STRVAR(fanout_attend_doc,
"attend(bell) -> what subscribers have said, each as (descriptor, User-Id, Peer-Address, bytes); empty if `bell` is readable\n\n"
"Waits for it without the GIL, and meanwhile carries out what peers cause and sends what waits. For one thread. Raises OSError.");

static PyObject *fanout_attend(PyObject *object, PyObject *arg)
{
    Fanout *self = (Fanout *)object;
    int bell = (int)PyLong_AsLong(arg), count = 0, reason = 0;
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    UsbcastFrame frames[USBCAST_MOST_SAID];
    Py_BEGIN_ALLOW_THREADS
    reason = usbcast_fanout_attend(self->core, bell, frames, &count);
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
    ((Fanout *)object)->open = 0;
    Py_RETURN_NONE;
}

static PyMethodDef fanout_methods[] = {
    {"send", (PyCFunction)(void (*)(void))fanout_send, METH_FASTCALL, fanout_send_doc},
    {"attend", fanout_attend, METH_O, fanout_attend_doc},
    {"close", fanout_close, METH_NOARGS, fanout_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *fanout_dropped(PyObject *object, void *Py_UNUSED(closure))
{
    Fanout *self = (Fanout *)object;
    return PyLong_FromUnsignedLongLong(self->core ? usbcast_fanout_dropped(self->core) : 0);
}

static PyGetSetDef fanout_properties[] = {
    {"dropped", fanout_dropped, NULL, "messages for which there was no room to wait", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot fanout_slots[] = {
    {Py_tp_doc, "Fanout(address): messages into the publishing socket at this address, and the one thread that attends to it."},
    {Py_tp_init, fanout_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, fanout_dealloc},
    {Py_tp_methods, fanout_methods},
    {Py_tp_getset, fanout_properties},
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
    UsbcastPair pair;
    if (count == 0)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (!is_open((Fanout *)PyTuple_GetItem(self->fanouts, at)))
            return -1;
    if (usbcast_make_pair(&pair, self->topic.buf, (size_t)self->topic.len, bytes, (size_t)size) < 0) {
        failed(USBCAST_SOCKET_FAILED);
        return -1;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        UsbcastPair copy = pair; /* the last one takes the bytes themselves */
        if (at < count - 1)
            usbcast_copy_pair(&copy, &pair);
        int refused = usbcast_fanout_put(((Fanout *)PyTuple_GetItem(self->fanouts, at))->core, &copy);
        reason = reason ? reason : refused;
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
