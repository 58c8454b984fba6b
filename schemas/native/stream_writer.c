/* The writer of a stream, as an object. See usbcast_schemas/engine/protocols.py, which says what each call does. */
#include "binding.h"

#include <stddef.h>

enum { NEEDS_FRAMING, DONE, DONE_RING_BELL, OUTCOMES };

typedef struct {
    PyObject_HEAD
    Ring *ring;
    UsbcastStreamWriter core;
    PyTypeObject *transfer;
    PyObject *outcomes[OUTCOMES], *settled, *too_large; /* the members of Put; what makes a Settled, and a ConfigError */
    int open;
    UsbcastPlan plan;      /* while it is open */
    PyObject *sender;      /* what is put is sent by it, or NULL */
    int is_sent_elsewhere; /* whoever hears the bell sends what is put */
    long long bell_at_ns;
} StreamWriter;

static PyObject *s_plan[6], *s_batch[4];
enum { P_PACKET_SIZE, P_MAX_PAYLOAD_BYTES, P_NOT_BEFORE_NS, P_SPACING_NS, P_BELL_AT_NS, P_SEND };
enum { B_PARTS, B_NUMBER, B_FIRST_SEQUENCE, B_PACKET_COUNT };

int stream_writer_ready(void)
{
    static const char *const plan[6] = {"packet_size", "max_payload_bytes", "not_before_ns", "spacing_ns", "bell_at_ns", "send"};
    static const char *const batch[4] = {"parts", "number", "first_sequence", "packet_count"};
    for (int i = 0; i < 6; i++)
        s_plan[i] = PyUnicode_InternFromString(plan[i]);
    for (int i = 0; i < 4; i++)
        s_batch[i] = PyUnicode_InternFromString(batch[i]);
    return PyErr_Occurred() ? -1 : 0;
}

static int writer_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "contract", "epoch", "transfer", "outcomes", "settled", "too_large", NULL};
    StreamWriter *self = (StreamWriter *)object;
    PyObject *ring, *transfer = NULL, *outcomes = NULL, *settled = NULL, *too_large = NULL;
    unsigned int contract = 0;
    unsigned long long epoch = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$IKO!O!OO", keywords, &ring, &contract, &epoch, &PyType_Type, &transfer,
                                     &PyTuple_Type, &outcomes, &settled, &too_large))
        return -1;
    if (self->ring || Py_TYPE(ring) != ring_type || !too_large || !settled || !transfer || !outcomes ||
        PyTuple_Size(outcomes) != OUTCOMES) {
        PyErr_SetString(PyExc_TypeError, "a StreamWriter is made once, of a Ring and six named arguments");
        return -1;
    }
    self->ring = (Ring *)Py_NewRef(ring);
    self->core.ring = &self->ring->core;
    self->core.contract = contract;
    self->core.epoch = epoch;
    self->transfer = (PyTypeObject *)Py_NewRef(transfer);
    for (int i = 0; i < OUTCOMES; i++)
        self->outcomes[i] = Py_NewRef(PyTuple_GetItem(outcomes, i));
    self->settled = Py_NewRef(settled);
    self->too_large = Py_NewRef(too_large);
    self->bell_at_ns = INT64_MAX;
    return 0;
}

static void writer_dealloc(PyObject *object)
{
    StreamWriter *self = (StreamWriter *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->transfer);
    for (int i = 0; i < OUTCOMES; i++)
        Py_XDECREF(self->outcomes[i]);
    Py_XDECREF(self->settled);
    Py_XDECREF(self->too_large);
    Py_XDECREF(self->sender);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

/* ---- What Python hands in ---- */

/* An attribute as a number; on failure there is an exception. */
static int64_t signed_attribute(PyObject *of, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(of, name);
    int64_t number = value ? PyLong_AsLongLong(value) : -1;
    Py_XDECREF(value);
    return number;
}

static uint64_t unsigned_attribute(PyObject *of, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(of, name);
    uint64_t number = value ? PyLong_AsUnsignedLongLong(value) : 0;
    Py_XDECREF(value);
    return number;
}

/* 0, or -1 with an exception. */
static int plan_of(PyObject *object, UsbcastPlan *plan)
{
    uint64_t packet_size = unsigned_attribute(object, s_plan[P_PACKET_SIZE]);
    plan->max_payload_bytes = signed_attribute(object, s_plan[P_MAX_PAYLOAD_BYTES]);
    plan->not_before_ns = signed_attribute(object, s_plan[P_NOT_BEFORE_NS]);
    plan->spacing_ns = signed_attribute(object, s_plan[P_SPACING_NS]);
    if (!PyErr_Occurred() && (packet_size == 0 || packet_size > UINT32_MAX))
        PyErr_SetString(PyExc_ValueError, "a packet has at least one byte, and fewer than 2**32");
    plan->packet_size = (uint32_t)packet_size;
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- Open and closed ---- */

PyDoc_STRVAR(writer_open_doc,
"open(plan)\n\nLet transfers be put by `plan`. Where its `send` is a Sender they are sent by it, at once: who uses its socket\n"
"meanwhile must not let go of the GIL. Where it is something else but None, whoever hears the bell sends.");

static PyObject *writer_open(PyObject *object, PyObject *given)
{
    StreamWriter *self = (StreamWriter *)object;
    UsbcastPlan plan;
    int64_t bell_at_ns = signed_attribute(given, s_plan[P_BELL_AT_NS]);
    PyObject *send = plan_of(given, &plan) < 0 ? NULL : PyObject_GetAttr(given, s_plan[P_SEND]);
    if (send == NULL)
        return NULL;
    int sends = Py_TYPE(send) == sender_type;
    Py_XDECREF(self->sender);
    self->sender = sends ? Py_NewRef(send) : NULL;
    self->is_sent_elsewhere = send != Py_None && !sends;
    Py_DECREF(send);
    self->plan = plan;
    self->bell_at_ns = bell_at_ns;
    self->open = 1;
    Py_RETURN_NONE;
}

static PyObject *writer_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ((StreamWriter *)object)->open = 0;
    Py_RETURN_NONE;
}

static PyObject *writer_release(PyObject *object, PyObject *Py_UNUSED(none))
{
    StreamWriter *self = (StreamWriter *)object;
    self->open = 0;
    return PyObject_CallMethod((PyObject *)self->ring, "close", NULL);
}

/* ---- Writing ---- */

/* Write `transfers` by `plan`: 1; 0, with nothing done, if it does not allow it; -1 with an exception. */
static int write_transfers(StreamWriter *self, PyObject *transfers, UsbcastPlan *plan)
{
    UsbcastRun sizes = {.packet_size = plan->packet_size, .most_bytes = plan->max_payload_bytes};
    Py_ssize_t count = take_pieces(self->ring, transfers, self->transfer, &sizes);
    if (count <= 0)
        return (int)count;
    int written = usbcast_writer_put(&self->core, count, plan);
    if (written < 0)
        failed(written);
    return written < 0 ? -1 : written;
}

/* As put by the plan that it is open with: what to answer, or -1 with an exception. */
static int put_while_open(StreamWriter *self, PyObject *transfers)
{
    if (!self->open || !self->ring->open)
        return NEEDS_FRAMING;
    int written = write_transfers(self, transfers, &self->plan);
    if (written <= 0)
        return written;
    int outcome = self->is_sent_elsewhere || self->core.tally.monotonic_ns >= self->bell_at_ns ? DONE_RING_BELL : DONE;
    if (self->sender == NULL)
        return outcome;
    if (send_newest(self->ring, self->sender, self->core.unsent) == 0) {
        self->core.unsent = 0;
        return outcome;
    }
    PyErr_Clear(); /* whoever hears the bell will try, and find out why it does not go */
    return DONE_RING_BELL;
}

static PyObject *writer_put(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    StreamWriter *self = (StreamWriter *)object;
    if (given < 1 || given > 2 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "put takes a list, and a plan perhaps");
        return NULL;
    }
    int outcome;
    if (given == 1 || args[1] == Py_None)
        outcome = put_while_open(self, args[0]);
    else {
        UsbcastPlan plan;
        if (!ring_is_open(self->ring) || plan_of(args[1], &plan) < 0)
            return NULL;
        outcome = write_transfers(self, args[0], &plan);
    }
    return outcome < 0 ? NULL : Py_NewRef(self->outcomes[outcome]);
}

static PyObject *writer_append(PyObject *object, PyObject *batch)
{
    StreamWriter *self = (StreamWriter *)object;
    if (!ring_is_open(self->ring))
        return NULL;
    PyObject *parts = PyObject_GetAttr(batch, s_batch[B_PARTS]);
    uint64_t number = unsigned_attribute(batch, s_batch[B_NUMBER]);
    uint64_t first = unsigned_attribute(batch, s_batch[B_FIRST_SEQUENCE]);
    uint64_t packets = unsigned_attribute(batch, s_batch[B_PACKET_COUNT]);
    int64_t beyond = 0; /* how large the batch is, if it is too large */
    int written = PyErr_Occurred() ? -1 : write_parts(self->ring, parts, number, first, packets, &beyond);
    Py_XDECREF(parts);
    if (beyond) {
        PyObject *error = PyObject_CallFunction(self->too_large, "LK", (long long)beyond,
                                                (unsigned long long)self->ring->core.data_bytes);
        if (error)
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
    }
    if (written < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- Afterwards ---- */

static PyObject *writer_settle(PyObject *object, PyObject *Py_UNUSED(none))
{
    StreamWriter *self = (StreamWriter *)object;
    UsbcastTally tally = self->core.tally;
    if (tally.batches == 0)
        Py_RETURN_NONE;
    self->core.tally = (UsbcastTally){0, 0, 0, 0, 0};
    return PyObject_CallFunction(self->settled, "KKKLL", (unsigned long long)tally.batches, (unsigned long long)tally.packets,
                                 (unsigned long long)tally.size_bytes, (long long)tally.realtime_ns, (long long)tally.monotonic_ns);
}

static PyObject *writer_send_unsent(PyObject *object, PyObject *send)
{
    StreamWriter *self = (StreamWriter *)object;
    if (!ring_is_open(self->ring))
        return NULL;
    uint64_t count = self->core.unsent;
    self->core.unsent = 0;
    if (send != Py_None && send_newest(self->ring, send, count) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- The type ---- */

static PyObject *writer_next_number(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((StreamWriter *)object)->ring->core.next_number);
}

static PyObject *writer_next_sequence(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((StreamWriter *)object)->ring->core.next_sequence);
}

static PyMethodDef writer_methods[] = {
    {"open", writer_open, METH_O, writer_open_doc},
    {"close", writer_close, METH_NOARGS, "Let no more transfers be put."},
    {"put", (PyCFunction)(void (*)(void))writer_put, METH_FASTCALL, "put(transfers, plan=None) -> one of the outcomes"},
    {"append", writer_append, METH_O, "Write a batch that framing produced."},
    {"settle", writer_settle, METH_NOARGS, "What was put since the last call; None if nothing was."},
    {"send_unsent", writer_send_unsent, METH_O, "Call it with each batch that was put and not sent, in place; with None forget them."},
    {"release", writer_release, METH_NOARGS, "Let go of the memory; idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_properties[] = {
    {"next_number", writer_next_number, NULL, "of the batch behind the newest", NULL},
    {"next_sequence", writer_next_sequence, NULL, "of the packet behind the newest batch", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef writer_members[] = {
    {"bell_at_ns", T_LONGLONG, offsetof(StreamWriter, bell_at_ns), 0, "from when on a put asks for the doorbell"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, "StreamWriter(ring, *, contract, epoch, transfer, outcomes, settled, too_large): see engine/protocols.py."},
    {Py_tp_init, writer_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_properties},
    {Py_tp_members, writer_members},
    {0, NULL},
};

PyType_Spec stream_writer_spec = {"usbcast_schemas._native.StreamWriter", sizeof(StreamWriter), 0, Py_TPFLAGS_DEFAULT, writer_slots};
