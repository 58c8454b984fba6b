/* From the ring, or a socket, to the application: a reader of plain batches that follow one another. usbcast_schemas/engine has the
 * interface (protocols.py, with its states) and the same in Python (pure_reader.py). */
#include "binding.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>

#if defined(__linux__)
#include <sys/epoll.h>
#endif

/* As ReaderState in usbcast_schemas/engine/protocols.py, which has the transitions as a table. */
typedef enum { CLOSED, OPEN, REFUSED, PARKED, DUE, STATES } State;

typedef struct {
    PyObject_HEAD
    Ring *ring;         /* one of the two */
    Messages *messages;
    Py_buffer topic; /* of the messages that are batches */
    PyObject *states, *settled; /* how Python calls the states, and the type of what `settle` returns */
    Asked asked;
    UsbcastNext next;
    unsigned long long at; /* the slot that is read next */
    int wait_fd;
    State state;
    int64_t due_ns, park_until_ns;
    PyObject *loaned; /* what was handed out in place last; it counts as delivered when it is given back whole */
    uint64_t loaned_slot, loaned_packets;
    unsigned long long taken; /* batches delivered, ever; and those that settling has told of */
    uint64_t told, packets, delivered;
    UsbcastTaken last;
    long long taken_ns;
} StreamReader;

static int reader_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"source", "batch", "arrivals", "major", "states", "settled", "topic", "wait_fd", "below_bytes", NULL};
    StreamReader *self = (StreamReader *)object;
    PyObject *source, *batch, *arrivals, *states, *settled, *topic = NULL;
    unsigned int major;
    int wait_fd = -1;
    unsigned long long below_bytes = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!IO!O|OiK", names, &source, &batch, &PyType_Type, &arrivals, &major,
                                     &PyTuple_Type, &states, &settled, &topic, &wait_fd, &below_bytes))
        return -1;
    int of_ring = Py_TYPE(source) == ring_type;
    if (self->states || PyTuple_Size(states) != STATES || (!of_ring && (Py_TYPE(source) != messages_type || topic == NULL))) {
        PyErr_SetString(PyExc_TypeError, "a reader is made once, with all states, of a Ring or of Messages with a topic");
        return -1;
    }
    Maker *maker = as_maker(batch, GIVEN_OF_BATCH, of_ring ? GIVEN_IN_PLACE : GIVEN_OF_BATCH);
    if (maker == NULL || (!of_ring && PyObject_GetBuffer(topic, &self->topic, PyBUF_SIMPLE) < 0))
        return -1;
    Py_INCREF(source);
    Py_INCREF(batch);
    Py_INCREF(arrivals);
    Py_INCREF(states);
    Py_INCREF(settled);
    self->ring = of_ring ? (Ring *)source : NULL;
    self->messages = of_ring ? NULL : (Messages *)source;
    self->wait_fd = wait_fd;
    self->states = states;
    self->settled = settled;
    self->asked = (Asked){below_bytes, major, maker, (PyTypeObject *)arrivals, &self->next};
    return 0;
}

static void reader_dealloc(PyObject *object)
{
    StreamReader *self = (StreamReader *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->messages);
    PyBuffer_Release(&self->topic);
    Py_XDECREF((PyObject *)self->asked.batch);
    Py_XDECREF((PyObject *)self->asked.arrivals);
    Py_XDECREF(self->states);
    Py_XDECREF(self->settled);
    Py_XDECREF(self->loaned);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static int takes_numbers(PyObject *of, Py_ssize_t count)
{
    return PyTuple_Check(of) && PyTuple_Size(of) == count;
}

PyDoc_STRVAR(reader_open_doc,
"open((epoch, number, first_sequence), (due_ns, park_until_ns)) -> whether a ring holds something in slot `at`\n\n"
"From now on `next_batch` delivers, beginning with that batch. Times are of time.monotonic_ns().");

static PyObject *reader_open(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    StreamReader *self = (StreamReader *)object;
    if (given != 2 || !takes_numbers(args[0], 3) || !takes_numbers(args[1], 2)) {
        PyErr_SetString(PyExc_TypeError, "open takes an Expected and Limits");
        return NULL;
    }
    UsbcastNext next = {PyLong_AsUnsignedLongLong(PyTuple_GetItem(args[0], 0)), PyLong_AsUnsignedLongLong(PyTuple_GetItem(args[0], 1)),
                 PyLong_AsUnsignedLongLong(PyTuple_GetItem(args[0], 2))};
    int64_t due_ns = PyLong_AsLongLong(PyTuple_GetItem(args[1], 0)), park_until_ns = PyLong_AsLongLong(PyTuple_GetItem(args[1], 1));
    if (PyErr_Occurred() || (self->ring && !ring_is_open(self->ring)))
        return NULL;
    self->next = next;
    self->due_ns = due_ns;
    self->park_until_ns = park_until_ns;
    self->state = OPEN;
    return PyBool_FromLong(self->ring && usbcast_ring_head(&self->ring->core) > self->at);
}

/* `batch` as it is handed out, made by `make` if that is not NULL, and counted. The reference to it is taken over. */
static PyObject *handed_out(StreamReader *self, PyObject *batch, const UsbcastTaken *taken, PyObject *make)
{
    PyObject *made = batch;
    if (make) {
        int by_maker = Py_TYPE(make) == maker_type && ((Maker *)make)->given == 1;
        made = by_maker ? made_by((Maker *)make, &batch) : PyObject_CallFunctionObjArgs(make, batch, NULL);
        Py_DECREF(batch);
    }
    if (made == NULL)
        return NULL;
    self->last = *taken;
    self->taken_ns = (long long)usbcast_now_ns();
    self->state = self->taken_ns >= self->due_ns ? DUE : OPEN;
    self->taken++;
    self->packets += taken->packets;
    self->next.number++;
    self->next.first += taken->packets;
    if (!is_in_place(&self->asked))
        self->delivered += taken->packets;
    else {
        Py_INCREF(made);
        self->loaned = made;
        self->loaned_slot = self->at;
        self->loaned_packets = taken->packets;
    }
    self->at++;
    return made;
}

/* A caller that asks for more has finished with what was loaned: 1 if it was whole to the end. */
static int return_loan(StreamReader *self)
{
    if (self->loaned == NULL)
        return 1;
    if (usbcast_ring_tail(&self->ring->core) > self->loaned_slot)
        return 0;
    self->delivered += self->loaned_packets;
    Py_CLEAR(self->loaned);
    return 1;
}

/* Of a message: whether it is the batch that is expected, and plain, and what of it is to be counted. */
typedef struct {
    const StreamReader *of;
    UsbcastPlain plain;
    UsbcastTaken taken;
} Pushed;

static int is_expected(void *about, const unsigned char *bytes, Py_ssize_t size)
{
    Pushed *pushed = about;
    pushed->plain = usbcast_plain_layout(bytes, bytes, size, pushed->of->asked.major);
    if (pushed->plain.arrivals == 0 || !usbcast_is_next(bytes, &pushed->of->next))
        return 0;
    pushed->taken = usbcast_taken_of(bytes, bytes, &pushed->plain);
    return 1;
}

static PyObject *next_message(StreamReader *self, PyObject *make)
{
    Pushed pushed = {.of = self};
    PyObject *raw = receive_message(self->messages, &self->topic, is_expected, &pushed);
    if (raw == NULL) {
        if (PyErr_Occurred())
            return NULL;
        if (self->messages->left)
            self->state = REFUSED;
        Py_RETURN_NONE;
    }
    Py_buffer view;
    PyObject *batch = NULL;
    if (PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE) == 0) {
        batch = decoded_bytes(raw, view.buf, view.len, &pushed.plain, self->asked.batch, self->asked.arrivals);
        PyBuffer_Release(&view);
    }
    Py_DECREF(raw);
    return batch ? handed_out(self, batch, &pushed.taken, make) : NULL;
}

static PyObject *next_in_ring(StreamReader *self, PyObject *make)
{
    if (!self->ring->open)
        Py_RETURN_NONE;
    if (!return_loan(self)) {
        self->state = DUE;
        Py_RETURN_NONE;
    }
    if (usbcast_ring_head(&self->ring->core) <= self->at)
        Py_RETURN_NONE;
    UsbcastTaken taken;
    PyObject *batch = take_slot(self->ring, self->at, &self->asked, &taken);
    if (batch == Py_None)
        self->state = REFUSED;
    if (batch == NULL || batch == Py_None)
        return batch;
    return handed_out(self, batch, &taken, make);
}

static PyObject *next_batch(StreamReader *self, PyObject *make)
{
    if (make == Py_None)
        make = NULL;
    if (self->state != OPEN && self->state != PARKED)
        Py_RETURN_NONE;
    return self->messages ? next_message(self, make) : next_in_ring(self, make);
}

PyDoc_STRVAR(reader_next_batch_doc,
"next_batch(make=None) -> the next batch, as `make` makes it of an EncodedBatch; None if there is none, and `state` says why");

static PyObject *reader_next_batch(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    if (given > 1) {
        PyErr_SetString(PyExc_TypeError, "next_batch takes what makes of a batch what is handed out, or nothing");
        return NULL;
    }
    return next_batch((StreamReader *)object, given ? args[0] : NULL);
}

/* For how long the caller may sleep; the flag is then raised that has the writer wake it. */
static int64_t park_ns(StreamReader *self)
{
    int64_t rest_ns = 0;
    if (self->state == OPEN && self->ring && self->ring->open && return_loan(self) && usbcast_ring_head(&self->ring->core) == self->at &&
        !spin_waited(self->ring, self->at, USBCAST_SPIN_WAIT_NS))
        rest_ns = self->park_until_ns - (int64_t)usbcast_now_ns();
    if (rest_ns <= 0 || !self->ring->open || !usbcast_ring_will_sleep(&self->ring->core, self->at))
        return 0;
    self->state = PARKED;
    return rest_ns;
}

PyDoc_STRVAR(reader_park_s_doc,
"park_s() -> for how many seconds the caller may sleep; 0.0 if it may not, or if the reader is not simply open\n\n"
"The flag is then raised that has the writer wake whoever sleeps.");

static PyObject *reader_park_s(PyObject *object, PyObject *Py_UNUSED(none))
{
    return PyFloat_FromDouble((double)park_ns((StreamReader *)object) / 1e9);
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

PyDoc_STRVAR(reader_wait_for_batch_doc,
"wait_for_batch(most_s, make=None) -> as next_batch(make), after a sleep; None at once if park_s() would be 0.0");

static PyObject *reader_wait_for_batch(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    StreamReader *self = (StreamReader *)object;
    if (given < 1 || given > 2) {
        PyErr_SetString(PyExc_TypeError, "wait_for_batch takes a number, and what makes of a batch what is handed out");
        return NULL;
    }
    double most_s = PyFloat_AsDouble(args[0]);
    if (PyErr_Occurred())
        return NULL;
#if defined(__linux__)
    int64_t rest_ns = park_ns(self);
    if (rest_ns > 0) {
        if (most_s < (double)rest_ns / 1e9)
            rest_ns = most_s > 0 ? (int64_t)(most_s * 1e9) : 0;
        return wait_for(self->wait_fd, rest_ns) < 0 ? NULL : next_batch(self, given > 1 ? args[1] : NULL);
    }
#else
    (void)self, (void)most_s;
#endif
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reader_settle_doc,
"settle() -> what was delivered since it was settled last, as `settled`; None if the reader is closed\n\n"
"The reader is closed from then on.");

static PyObject *reader_settle(PyObject *object, PyObject *Py_UNUSED(none))
{
    StreamReader *self = (StreamReader *)object;
    if (self->state == CLOSED)
        Py_RETURN_NONE;
    PyObject *told = PyObject_CallFunction(
        self->settled, "OKKKLLLO", PyTuple_GetItem(self->states, self->state), self->taken - self->told,
        (unsigned long long)self->packets, (unsigned long long)self->delivered, (long long)self->last.realtime_ns,
        (long long)self->last.monotonic_ns, self->taken_ns, self->loaned ? self->loaned : Py_None);
    if (told) {
        Py_CLEAR(self->loaned);
        self->told = self->taken;
        self->packets = self->delivered = 0;
        self->state = CLOSED;
    }
    return told;
}

static PyObject *reader_state(PyObject *object, void *Py_UNUSED(closure))
{
    StreamReader *self = (StreamReader *)object;
    PyObject *state = self->states ? PyTuple_GetItem(self->states, self->state) : Py_None;
    Py_INCREF(state);
    return state;
}

static PyMethodDef reader_methods[] = {
    {"open", (PyCFunction)(void (*)(void))reader_open, METH_FASTCALL, reader_open_doc},
    {"next_batch", (PyCFunction)(void (*)(void))reader_next_batch, METH_FASTCALL, reader_next_batch_doc},
    {"wait_for_batch", (PyCFunction)(void (*)(void))reader_wait_for_batch, METH_FASTCALL, reader_wait_for_batch_doc},
    {"park_s", reader_park_s, METH_NOARGS, reader_park_s_doc},
    {"settle", reader_settle, METH_NOARGS, reader_settle_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reader_members[] = {
    {"at", T_ULONGLONG, offsetof(StreamReader, at), 0, "the slot of the ring that is read next"},
    {"taken", T_ULONGLONG, offsetof(StreamReader, taken), READONLY, "how many batches were delivered, ever"},
    {"taken_ns", T_LONGLONG, offsetof(StreamReader, taken_ns), READONLY, "when the last batch was delivered; 0 if none was"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef reader_properties[] = {
    {"state", reader_state, NULL, "one of `states`", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "StreamReader(source, batch, arrivals, major, states, settled, topic, wait_fd, below_bytes): delivers the plain\n"
                "batches of a Ring, or of the Messages on a topic, one by one, as long as each follows the one before."},
    {Py_tp_init, reader_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_members, reader_members},
    {Py_tp_getset, reader_properties},
    {0, NULL},
};

PyType_Spec stream_reader_spec = {"usbcast_schemas._native.StreamReader", sizeof(StreamReader), 0, Py_TPFLAGS_DEFAULT, reader_slots};
