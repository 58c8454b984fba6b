/* From what was read into the ring: a feed's short way. */
#include "binding.h"

/* What has gone through since it was asked last. */
typedef struct {
    uint64_t batches, packets, size_bytes;
    int64_t realtime_ns, monotonic_ns; /* of the last transfer */
} Tally;

typedef struct {
    PyObject_HEAD
    Ring *ring;
    PyTypeObject *transfer;
    int open;
    UsbcastRun run;
    int64_t close_ns, next_ns, until_ns;
    PyObject *sender; /* what goes through is sent by it, or NULL: then who is told of it does so */
    int told;         /* somebody is to be told of whatever goes through */
    uint64_t unsent;  /* how many of the newest batches have not been sent */
    Tally tally;
} ShortWay;

static int short_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    ShortWay *self = (ShortWay *)object;
    PyObject *ring, *transfer;
    unsigned int contract;
    unsigned long long epoch;
    if (!PyArg_ParseTuple(args, "OO!IK", &ring, &PyType_Type, &transfer, &contract, &epoch))
        return -1;
    if (self->ring || Py_TYPE(ring) != ring_type) {
        PyErr_SetString(PyExc_TypeError, "a short way is made once, and leads into a Ring");
        return -1;
    }
    Py_INCREF(ring);
    Py_INCREF(transfer);
    self->ring = (Ring *)ring;
    self->transfer = (PyTypeObject *)transfer;
    self->run.contract = contract;
    self->run.epoch = epoch;
    return 0;
}

static void short_dealloc(PyObject *object)
{
    ShortWay *self = (ShortWay *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->transfer);
    Py_XDECREF(self->sender);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(short_open_doc,
"open(most_bytes, packet_size, number, first_sequence, close_ns, next_ns, until_ns, publish)\n\n"
"From now on, until it is closed, what is put goes through. Batches of at most so much payload, numbered from here on. Where\n"
"publish is a Sender they are sent by it, at once: who uses its socket meanwhile must not let go of the GIL. Where it is\n"
"something else but None they are to be sent by who is told.");

static PyObject *short_open(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    ShortWay *self = (ShortWay *)object;
    if (given != 8) {
        PyErr_SetString(PyExc_TypeError, "open takes seven numbers and what publishes");
        return NULL;
    }
    UsbcastRun *run = &self->run;
    run->most_bytes = PyLong_AsSsize_t(args[0]);
    run->packet_size = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    run->number = PyLong_AsUnsignedLongLong(args[2]);
    run->first = PyLong_AsUnsignedLongLong(args[3]);
    self->close_ns = PyLong_AsLongLong(args[4]);
    self->next_ns = PyLong_AsLongLong(args[5]);
    self->until_ns = PyLong_AsLongLong(args[6]);
    if (PyErr_Occurred())
        return NULL;
    Py_CLEAR(self->sender);
    if (Py_TYPE(args[7]) == sender_type) {
        Py_INCREF(args[7]);
        self->sender = args[7];
    }
    self->told = args[7] != Py_None && !self->sender;
    self->open = run->packet_size != 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(short_until_doc,
"until(until_ns)\n\nWhat goes through before that need not be told, from now on, unless it is to be sent by who is told.");

static PyObject *short_until(PyObject *object, PyObject *until)
{
    long long until_ns = PyLong_AsLongLong(until);
    if (PyErr_Occurred())
        return NULL;
    ((ShortWay *)object)->until_ns = until_ns;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(short_put_doc,
"put(items) -> 0 if nothing was done; 1 if they are in the ring as batches, its sleeping readers woken, and sent where that is\n"
"to be done here; 2 if somebody is to be told of it: from until_ns on, or because they are to be sent\n\n"
"Nothing is done while it is closed, if anything else is in the list than whole packets, and for what comes sooner than\n"
"close_ns after what came before it: unless that is so much that it makes no larger batches to wait for more.");

static PyObject *short_put(PyObject *object, PyObject *items)
{
    ShortWay *self = (ShortWay *)object;
    if (!PyList_Check(items)) {
        PyErr_SetString(PyExc_TypeError, "put takes a list");
        return NULL;
    }
    if (!self->open || !self->ring->open)
        return PyLong_FromLong(0);
    UsbcastRun run = self->run;
    run.size_bytes = 0;
    Py_ssize_t count = take_pieces(self->ring, items, self->transfer, &run), size = 0;
    for (Py_ssize_t at = 0; at < count; at++)
        size += self->ring->core.pieces[at].size;
    int whole = (int)(count < 0 ? -1 : 0);
    const UsbcastPiece *last = count > 0 ? &self->ring->core.pieces[count - 1] : NULL;
    if (last && (last->monotonic_ns >= self->next_ns || 2 * size > run.most_bytes))
        whole = write_pieces(self->ring, count, &run);
    if (whole > 0) {
        self->next_ns = last->monotonic_ns + self->close_ns;
        self->tally.realtime_ns = last->realtime_ns;
        self->tally.monotonic_ns = last->monotonic_ns;
    }
    self->unsent += run.number - self->run.number;
    self->tally.batches += run.number - self->run.number;
    self->tally.packets += run.first - self->run.first;
    self->tally.size_bytes += run.size_bytes;
    self->run = run;
    if (whole < 0)
        return NULL;
    int told = whole && (self->told || self->tally.monotonic_ns >= self->until_ns);
    if (whole && self->sender) {
        if (send_newest(self->ring, self->sender, self->unsent) == 0)
            self->unsent = 0;
        else { /* who is told will try, and find out why it does not go */
            PyErr_Clear();
            told = 1;
        }
    }
    return PyLong_FromLong(told ? 2 : whole);
}

PyDoc_STRVAR(short_close_doc, "Nothing goes through any more.");

static PyObject *short_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ((ShortWay *)object)->open = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(short_settle_doc,
"settle() -> (batches, packets, size_bytes, realtime_ns, monotonic_ns), what went through since it was asked last and the\n"
"times of the last of it; None if nothing did");

static PyObject *short_settle(PyObject *object, PyObject *Py_UNUSED(none))
{
    ShortWay *self = (ShortWay *)object;
    Tally tally = self->tally;
    if (tally.batches == 0)
        Py_RETURN_NONE;
    self->tally = (Tally){0, 0, 0, 0, 0};
    return Py_BuildValue("KKKLL", (unsigned long long)tally.batches, (unsigned long long)tally.packets,
                         (unsigned long long)tally.size_bytes, (long long)tally.realtime_ns, (long long)tally.monotonic_ns);
}

PyDoc_STRVAR(short_send_doc,
"send(publish, most)\n\n"
"Call `publish` with each of the newest batches that went through and were not sent before, in place, the oldest of them first;\n"
"of more than so many, or than the ring holds, with the newest. With None they count as sent. To be called before anything\n"
"else is written.");

static PyObject *short_send(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    ShortWay *self = (ShortWay *)object;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "send takes what to call, or None, and a number");
        return NULL;
    }
    uint64_t count = PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred() || !ring_is_open(self->ring))
        return NULL;
    if (count > self->unsent)
        count = self->unsent;
    self->unsent = 0;
    if (args[0] != Py_None && send_newest(self->ring, args[0], count) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef short_methods[] = {
    {"send", (PyCFunction)(void (*)(void))short_send, METH_FASTCALL, short_send_doc},
    {"open", (PyCFunction)(void (*)(void))short_open, METH_FASTCALL, short_open_doc},
    {"until", short_until, METH_O, short_until_doc},
    {"put", short_put, METH_O, short_put_doc},
    {"close", short_close, METH_NOARGS, short_close_doc},
    {"settle", short_settle, METH_NOARGS, short_settle_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot short_slots[] = {
    {Py_tp_doc, "ShortWay(ring, Transfer, contract, epoch): from what was read into the ring, in one call; with a tally."},
    {Py_tp_init, short_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, short_dealloc},
    {Py_tp_methods, short_methods},
    {0, NULL},
};

PyType_Spec short_way_spec = {"usbcast_schemas._native.ShortWay", sizeof(ShortWay), 0, Py_TPFLAGS_DEFAULT, short_slots};
