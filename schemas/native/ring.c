/* A ring, as an object. */
#include "binding.h"

#include <errno.h>
#include <stddef.h>

PyTypeObject *ring_type;

static void ring_let_go(Ring *self)
{
    if (self->open) {
        self->open = 0;
        Py_CLEAR(self->whole);
        PyBuffer_Release(&self->view);
    }
}

static int ring_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Ring *self = (Ring *)object;
    PyObject *memory;
    unsigned long long slots, data_bytes;
    int wake_fd = -1;
    if (!PyArg_ParseTuple(args, "OKK|i", &memory, &slots, &data_bytes, &wake_fd))
        return -1;
    ring_let_go(self);
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0)
        return -1;
    self->open = 1;
    PyObject *whole = PyMemoryView_FromObject(memory);
    self->whole = whole ? PyObject_CallMethod(whole, "toreadonly", NULL) : NULL;
    Py_XDECREF(whole);
    if (self->whole == NULL) {
        ring_let_go(self);
        return -1;
    }
    int made = usbcast_ring_init(&self->core, self->view.buf, (uint64_t)self->view.len, slots, data_bytes, wake_fd);
    if (made < 0) {
        ring_let_go(self);
        failed(made);
        return -1;
    }
    return 0;
}

static void ring_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ring_let_go((Ring *)object);
    usbcast_ring_free(&((Ring *)object)->core);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *ring_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ring_let_go((Ring *)object);
    Py_RETURN_NONE;
}

int ring_is_open(Ring *self)
{
    int open = self != NULL && self->open;
    if (!open)
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
    return open;
}

/* So many bytes of the ring itself, to be looked at only. They keep the memory, whoever closes the ring. */
static PyObject *in_place(Ring *self, const unsigned char *begin, Py_ssize_t size)
{
    Py_ssize_t at = begin - (const unsigned char *)self->view.buf;
    return PySequence_GetSlice(self->whole, at, at + size);
}

/* -1 with an exception if one of them has no length. */
static int64_t parts_size(PyObject *parts, Py_ssize_t count)
{
    int64_t size = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length = PyObject_Size(PyTuple_GetItem(parts, i));
        if (length < 0)
            return -1;
        size += length;
    }
    return size;
}

/* Copy a part into the batch of `length` bytes; at most `left` of them. */
static int copy_part(unsigned char **to, PyObject *part, int64_t *left, uint64_t length)
{
    Py_buffer view;
    if (PyObject_GetBuffer(part, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int fits = view.len <= *left;
    if (fits) {
        *to = usbcast_ring_copy(*to, view.buf, (uint64_t)view.len, length);
        *left -= view.len;
    } else
        PyErr_SetString(PyExc_ValueError, "a part has more bytes than items");
    PyBuffer_Release(&view);
    return fits ? 0 : -1;
}

/* Store one batch, given as a tuple of parts, and wake the readers that sleep: 0, or -1 with an exception; without one, and with
 * its size in `beyond`, if it is larger than the ring. */
int write_parts(Ring *self, PyObject *parts, uint64_t number, uint64_t first, uint64_t packets, int64_t *beyond)
{
    if (!PyTuple_Check(parts) || packets > UINT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "a batch has a tuple of parts, and at most 2**32 - 1 packets");
        return -1;
    }
    Py_ssize_t count = PyTuple_Size(parts);
    int64_t length = parts_size(parts, count), left = length;
    if (length < 0)
        return -1;
    uint64_t position = 0;
    unsigned char *to = usbcast_ring_begin(&self->core, (uint64_t)length, &position);
    if (to == NULL) {
        *beyond = length;
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (copy_part(&to, PyTuple_GetItem(parts, i), &left, (uint64_t)length) < 0)
            return -1;
    int shown = usbcast_ring_show(&self->core, position, (uint64_t)length, number, first, packets);
    if (shown < 0)
        failed(shown);
    return shown < 0 ? -1 : 0;
}

/* All of the list `items` as pieces, and how many; 0 if one of them is anything but a transfer of whole packets; -1 with an exception. */
Py_ssize_t take_pieces(Ring *self, PyObject *items, PyTypeObject *transfer, const UsbcastRun *run)
{
    int64_t taken = 0;
    Py_ssize_t count = PyList_Size(items);
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *item = PyList_GetItem(items, at);
        UsbcastPiece whole;
        if (Py_TYPE(item) != transfer)
            return 0;
        int is_whole = take_piece(&whole, item, run->packet_size);
        if (is_whole <= 0)
            return is_whole;
        taken = usbcast_ring_add_transfer(&self->core, taken, &whole, run);
        if (taken < 0) {
            failed((int)taken);
            return -1;
        }
    }
    return (Py_ssize_t)taken;
}

/* Call `publish` with each of the newest so many batches that are still held, in place, the oldest of them first: 0, or -1 with an
 * exception. */
int send_newest(Ring *self, PyObject *publish, uint64_t most)
{
    for (uint64_t at = usbcast_ring_first_of_newest(&self->core, most); at < self->core.head; at++) {
        uint64_t size;
        const unsigned char *begin = usbcast_ring_written(&self->core, at, &size);
        if (Py_TYPE(publish) == sender_type) {
            if (send_by(publish, begin, (Py_ssize_t)size) < 0)
                return -1;
            continue;
        }
        PyObject *raw = in_place(self, begin, (Py_ssize_t)size);
        PyObject *done = raw ? PyObject_CallFunctionObjArgs(publish, raw, NULL) : NULL;
        Py_XDECREF(raw);
        Py_XDECREF(done);
        if (done == NULL)
            return -1;
    }
    return 0;
}

/* The batch in slot `at`; its bytes where it is not plain. Py_None where there is none to be had. */
PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, UsbcastTaken *taken)
{
    UsbcastHeld held;
    if (!usbcast_ring_find(&self->core, at, asked->most_bytes, &held) || (asked->next && !usbcast_is_next(held.first, asked->next)))
        Py_RETURN_NONE;
    Py_ssize_t size = (Py_ssize_t)held.size;
    int copied = !is_in_place(asked);
    PyObject *raw = copied ? PyBytes_FromStringAndSize((const char *)held.bytes, size) : in_place(self, held.bytes, size);
    if (raw == NULL)
        return NULL;
    const unsigned char *bytes = copied ? (const unsigned char *)PyBytes_AsString(raw) : held.bytes;
    const unsigned char *head = copied ? bytes : held.first;
    UsbcastPlain plain = usbcast_plain_layout(head, bytes, size, asked->major);
    if (plain.arrivals)
        *taken = usbcast_taken_of(head, bytes, &plain);
    PyObject *batch = raw;
    if (plain.arrivals && copied)
        batch = decoded_bytes(raw, bytes, size, &plain, asked->batch, asked->arrivals);
    else if (plain.arrivals)
        batch = decoded(raw, head, bytes, &plain, in_place(self, bytes + plain.payload, size - (Py_ssize_t)plain.payload), at,
                        asked->batch, asked->arrivals);
    if (batch != raw)
        Py_DECREF(raw);
    if (batch == NULL)
        return NULL;
    if (!usbcast_ring_is_intact(&self->core, at) || (asked->next && plain.arrivals == 0)) {
        Py_DECREF(batch);
        Py_RETURN_NONE;
    }
    return batch;
}

PyDoc_STRVAR(ring_take_doc,
"take(most_bytes, major, batch, Arrivals, slot)\n"
"-> what the Maker `batch` makes, or its bytes where it is not packets of one size with their arrivals and nothing else;\n"
"None if the slot is not held, was overwritten meanwhile, or has most_bytes or more");

static PyObject *ring_take(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (given != 5 || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "take takes two numbers, a maker, a type and a number");
        return NULL;
    }
    Maker *batch = as_maker(args[2], GIVEN_OF_BATCH, GIVEN_OF_BATCH);
    if (batch == NULL || !ring_is_open(self))
        return NULL;
    Asked asked = {PyLong_AsUnsignedLongLong(args[0]), (uint32_t)PyLong_AsUnsignedLong(args[1]),
                   batch, (PyTypeObject *)args[3], NULL};
    uint64_t at = PyLong_AsUnsignedLongLong(args[4]);
    UsbcastTaken taken;
    return PyErr_Occurred() ? NULL : take_slot(self, at, &asked, &taken);
}

PyDoc_STRVAR(ring_will_sleep_doc,
"will_sleep(head) -> whether the head is still there, with the flag raised that has the writer wake us, and the ring not closed");

static PyObject *ring_will_sleep(PyObject *object, PyObject *head)
{
    Ring *self = (Ring *)object;
    uint64_t seen = PyLong_AsUnsignedLongLong(head);
    if (PyErr_Occurred() || !ring_is_open(self))
        return NULL;
    return PyBool_FromLong(usbcast_ring_will_sleep(&self->core, seen));
}

PyDoc_STRVAR(ring_spin_wait_doc,
"spin_wait(head, most_ns) -> whether the head has moved beyond `head` meanwhile\n\n"
"Look again and again, with a processor's pause between, while other threads of the interpreter go on. After it was in vain,\n"
"the next call returns at once, then the next three, seven, at the most so many.");

int spin_waited(Ring *self, uint64_t head, uint64_t most_ns)
{
    if (!usbcast_ring_may_spin(&self->core))
        return 0;
    const uint64_t *words = self->core.words;
    PyObject *kept = self->whole; /* so that the memory stays, whatever the others do */
    int moved;
    Py_INCREF(kept);
    Py_BEGIN_ALLOW_THREADS
    moved = usbcast_ring_spin(words, head, most_ns);
    Py_END_ALLOW_THREADS
    Py_DECREF(kept);
    usbcast_ring_spun(&self->core, moved);
    return moved;
}

static PyObject *ring_spin_wait(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "spin_wait takes two numbers");
        return NULL;
    }
    uint64_t head = PyLong_AsUnsignedLongLong(args[0]), most_ns = PyLong_AsUnsignedLongLong(args[1]);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(spin_waited(self, head, most_ns));
}

static PyMethodDef ring_methods[] = {
    {"take", (PyCFunction)(void (*)(void))ring_take, METH_FASTCALL, ring_take_doc},
    {"will_sleep", ring_will_sleep, METH_O, ring_will_sleep_doc},
    {"spin_wait", (PyCFunction)(void (*)(void))ring_spin_wait, METH_FASTCALL, ring_spin_wait_doc},
    {"close", ring_close, METH_NOARGS, "Let go of the memory; idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef ring_members[] = {
    {"next_number", T_ULONGLONG, offsetof(Ring, core.next_number), 0, "of the batch behind what was written last"},
    {"next_sequence", T_ULONGLONG, offsetof(Ring, core.next_sequence), 0, "of the packet behind what was written last"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "Ring(memory, slots, data_bytes, wake_fd=-1): the writer's or a reader's hold on the memory of a ring."},
    {Py_tp_init, ring_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_members, ring_members},
    {0, NULL},
};

PyType_Spec ring_spec = {"usbcast_schemas._native.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};
