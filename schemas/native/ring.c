/* The memory of a ring, by its writer and its readers. */
#include "core.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif

/* Words of its header and of a slot. */
enum { HEADER_BYTES = 4096, SLOT_WORDS = 6, FIRST_SLOT = HEADER_BYTES / 8 };
enum { WAITING = 24, STATE = 33 };
enum { NUMBER_PLUS_ONE, BATCH_NUMBER, FIRST_SEQUENCE, COUNT_AND_LENGTH, POSITION, CHECKSUM };

/* From so many bytes on a batch is written past the caches, and pieces shorter than that on average are joined before. */
enum { PAST_CACHES_BYTES = 32 * 1024, SHORT_BYTES = 4096 };

PyTypeObject *ring_type;
static PyObject *s_ring, *s_slot;

int ring_ready(void)
{
    s_ring = PyUnicode_InternFromString("ring");
    s_slot = PyUnicode_InternFromString("slot");
    return PyErr_Occurred() ? -1 : 0;
}

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
    /* By subtraction and division: the figures are anybody's, and their sum may wrap. */
    uint64_t size = (uint64_t)self->view.len, beyond = size < HEADER_BYTES ? 0 : size - HEADER_BYTES;
    if (slots == 0 || slots > beyond / (SLOT_WORDS * 8) || data_bytes == 0 || beyond - slots * SLOT_WORDS * 8 != data_bytes) {
        ring_let_go(self);
        PyErr_SetString(PyExc_ValueError, "the memory is not as large as such a ring");
        return -1;
    }
    self->words = self->view.buf;
    self->data = (unsigned char *)self->view.buf + (size - data_bytes);
    self->slots = slots;
    self->data_bytes = data_bytes;
    self->head = self->tail = self->position = 0;
    self->wake_fd = wake_fd;
    return 0;
}

static void ring_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ring_let_go((Ring *)object);
    PyMem_Free(((Ring *)object)->pieces);
    PyMem_Free(((Ring *)object)->joined);
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

static uint64_t *slot_words(Ring *self, uint64_t slot)
{
    return self->words + FIRST_SLOT + slot % self->slots * SLOT_WORDS;
}

/* So many bytes of the ring itself, to be looked at only. They keep the memory, whoever closes the ring. */
static PyObject *in_place(Ring *self, const unsigned char *begin, Py_ssize_t size)
{
    Py_ssize_t at = begin - (const unsigned char *)self->view.buf;
    return PySequence_GetSlice(self->whole, at, at + size);
}

/* Make room for the next batch, of so many bytes, which is no more than the ring holds; return where it begins. */
static unsigned char *make_room(Ring *self, uint64_t length, uint64_t *begins)
{
    uint64_t size = self->data_bytes, position = self->position, head = self->head, tail = self->tail;
    if (position % size + length > size)
        position += size - position % size;
    uint64_t end = position + length;
    while (tail < head && (head - tail >= self->slots || slot_words(self, tail)[POSITION] + size < end))
        tail++;
    if (tail != self->tail) {
        self->tail = tail;
        STORE(&self->words[TAIL], tail); /* before the first byte is overwritten */
    }
    *begins = position;
    return self->data + position % size;
}

/* A byte into the fifo is a new edge for every reader's epoll. Nobody reads the fifo, so it is emptied when it is full. */
static int wake(int fd)
{
    char emptied[4096];
    while (write(fd, "", 1) < 0) {
        if (errno == EAGAIN) {
            while (read(fd, emptied, sizeof emptied) == (ssize_t)sizeof emptied) {
            }
        } else if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    }
    return 0;
}

/* What was written at `position` is a batch from now on, and who sleeps is told. */
static int show(Ring *self, uint64_t position, uint64_t length, uint64_t number, uint64_t first, uint64_t packets)
{
    uint64_t head = self->head, *slot = slot_words(self, head);
    slot[NUMBER_PLUS_ONE] = head + 1;
    slot[BATCH_NUMBER] = number;
    slot[FIRST_SEQUENCE] = first;
    slot[COUNT_AND_LENGTH] = packets << 32 | length;
    slot[POSITION] = position;
    slot[CHECKSUM] = 0;
    self->position = (position + length + 7) & ~(uint64_t)7;
    self->head = head + 1;
    self->next_number = number + 1;
    self->next_sequence = first + packets;
    STORE(&self->words[HEAD], head + 1);
    if (!LOAD(&self->words[WAITING]))
        return 0;
    STORE(&self->words[WAITING], 0); /* before the wake-up is sent, never after */
    return wake(self->wake_fd);
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

/* A ring is larger than the caches, and whoever reads it has another one: an ordinary store fetches each line from memory only to
 * overwrite it. Past the caches a batch of 448 kB was written in two thirds of the time. */
static void copy(unsigned char *to, const unsigned char *from, size_t size, int past_caches)
{
#if defined(__SSE2__)
    if (past_caches) {
        size_t ragged = (size_t)(-(uintptr_t)to & 15);
        if (ragged > size)
            ragged = size;
        memcpy(to, from, ragged);
        for (to += ragged, from += ragged, size -= ragged; size >= 64; to += 64, from += 64, size -= 64)
            for (int at = 0; at < 64; at += 16)
                _mm_stream_si128((__m128i *)(to + at), _mm_loadu_si128((const __m128i *)(from + at)));
        _mm_sfence(); /* before the head is moved */
    }
#else
    (void)past_caches;
#endif
    memcpy(to, from, size);
}

static int copy_part(unsigned char *to, PyObject *part, int64_t left, int past_caches)
{
    Py_buffer view;
    if (PyObject_GetBuffer(part, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int fits = view.len <= left;
    if (fits)
        copy(to, view.buf, (size_t)view.len, past_caches);
    else
        PyErr_SetString(PyExc_ValueError, "a part has more bytes than items");
    PyBuffer_Release(&view);
    return fits ? 0 : -1;
}

PyDoc_STRVAR(ring_write_doc,
"write(parts, number, first_sequence, packet_count)\n\n"
"Store one batch, and wake the readers that sleep. Raises BufferError if it is larger than the ring.");

static PyObject *ring_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 4 || !PyTuple_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "write takes a tuple of parts and three numbers");
        return NULL;
    }
    PyObject *parts = args[0];
    uint64_t number = PyLong_AsUnsignedLongLong(args[1]);
    uint64_t first = PyLong_AsUnsignedLongLong(args[2]);
    uint64_t packets = PyLong_AsUnsignedLongLong(args[3]);
    Py_ssize_t count = PyTuple_Size(parts);
    int64_t length = PyErr_Occurred() ? -1 : parts_size(parts, count);
    if (length < 0)
        return NULL;
    if ((uint64_t)length > self->data_bytes || packets > 0xFFFFFFFF) {
        PyErr_SetString(PyExc_BufferError, "the batch is larger than the ring");
        return NULL;
    }
    uint64_t position;
    unsigned char *to = make_room(self, (uint64_t)length, &position);
    int64_t left = length;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PyTuple_GetItem(parts, i);
        Py_ssize_t part_size = PyObject_Size(part);
        if (copy_part(to, part, left, length >= PAST_CACHES_BYTES) < 0)
            return NULL;
        to += part_size;
        left -= part_size;
    }
    if (show(self, position, (uint64_t)length, number, first, packets) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int make_room_for_pieces(Ring *self, Py_ssize_t count)
{
    if (count <= self->most_pieces)
        return 0;
    Py_ssize_t most = 2 * self->most_pieces > count ? 2 * self->most_pieces : count;
    Piece *more = PyMem_Realloc(self->pieces, (size_t)most * sizeof(Piece));
    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->pieces = more;
    self->most_pieces = most;
    return 0;
}

/* All of the list `items` as pieces that each fit into a batch (a packet that is larger than a batch is one by itself), and how many;
 * 0 if one of them is anything but a transfer of whole packets; -1 with an exception. */
Py_ssize_t take_pieces(Ring *self, PyObject *items, PyTypeObject *transfer, const Run *run)
{
    Py_ssize_t taken = 0, count = PyList_Size(items), packet_size = (Py_ssize_t)run->packet_size;
    Py_ssize_t most = run->most_bytes < packet_size ? packet_size : run->most_bytes - run->most_bytes % packet_size;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *item = PyList_GetItem(items, at);
        Piece whole;
        if (Py_TYPE(item) != transfer)
            return 0;
        int is_whole = take_piece(&whole, item, run->packet_size);
        if (is_whole <= 0)
            return is_whole;
        for (Py_ssize_t left = whole.size; left > 0; left -= most, taken++) {
            if (make_room_for_pieces(self, taken + 1) < 0)
                return -1;
            self->pieces[taken] = (Piece){whole.bytes + (whole.size - left), left < most ? left : most, whole.realtime_ns, whole.monotonic_ns};
        }
    }
    return taken;
}

/* Up to which piece the batch that begins with piece `at` goes, and its bytes of payload: as many as have room, at least one. */
static Py_ssize_t batch_until(const Piece *pieces, Py_ssize_t at, Py_ssize_t count, Py_ssize_t most_bytes, uint64_t *payload_bytes)
{
    Py_ssize_t size = pieces[at].size;
    for (at++; at < count && size + pieces[at].size <= most_bytes; at++)
        size += pieces[at].size;
    *payload_bytes = (uint64_t)size;
    return at;
}

/* What is written past the caches is written in long pieces; short ones are put together before, in memory that is in a cache. */
static int is_joined(uint64_t length, uint64_t payload_bytes, Py_ssize_t count)
{
    return length >= PAST_CACHES_BYTES && payload_bytes < (uint64_t)count * SHORT_BYTES;
}

static unsigned char *room_to_join(Ring *self, uint64_t length)
{
    if (length > self->joined_bytes) {
        unsigned char *more = PyMem_Realloc(self->joined, (size_t)length);
        if (more == NULL)
            return (unsigned char *)PyErr_NoMemory();
        self->joined = more;
        self->joined_bytes = length;
    }
    return self->joined;
}

/* The first `count` pieces as batches in the ring: 1; 0, with nothing done, if they would take more than half of it; -1 with an exception. */
int write_pieces(Ring *self, Py_ssize_t count, Run *run)
{
    const Piece *pieces = self->pieces;
    uint64_t payload_bytes = 0, batches = 0, needed = 0;
    for (Py_ssize_t at = 0, until; at < count; at = until, batches++) {
        until = batch_until(pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = head_size(until - at, payload_bytes) + payload_bytes;
        needed += length;
        if (needed > self->data_bytes / 2 || batches >= self->slots / 2)
            return 0;
        if (is_joined(length, payload_bytes, until - at) && room_to_join(self, length) == NULL)
            return -1;
    }
    for (Py_ssize_t at = 0, until; at < count; at = until) {
        until = batch_until(pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = head_size(until - at, payload_bytes) + payload_bytes, packets = payload_bytes / run->packet_size, position;
        int joined = is_joined(length, payload_bytes, until - at);
        int past_caches = !joined && length >= PAST_CACHES_BYTES;
        unsigned char *begin = make_room(self, length, &position), *to = joined ? self->joined : begin;
        to = put_head(to, pieces + at, until - at, payload_bytes, run);
        for (Py_ssize_t piece = at; piece < until; piece++) {
            copy(to, pieces[piece].bytes, (size_t)pieces[piece].size, past_caches);
            to += pieces[piece].size;
        }
        if (joined)
            copy(begin, self->joined, (size_t)length, 1);
        if (show(self, position, length, run->number, run->first, packets) < 0)
            return -1;
        run->number++;
        run->first += packets;
        run->size_bytes += payload_bytes;
    }
    return 1;
}

PyDoc_STRVAR(ring_write_run_doc,
"write_run(items, Transfer, most_bytes, contract, epoch, number, first_sequence, packet_size)\n"
"-> (batches, packets, size_bytes), or None and nothing is done\n\n"
"Store the batches of a list of transfers, each of as many as make no more than most_bytes of payload, and wake the readers\n"
"that sleep; a transfer that is larger than a batch is cut. None if there is anything else in the list than transfers of whole\n"
"packets, or if they would take more than half of the ring.");

static PyObject *ring_write_run(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 8 || !PyList_Check(args[0]) || !PyType_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write_run takes a list, a type and six numbers");
        return NULL;
    }
    Py_ssize_t most_bytes = PyLong_AsSsize_t(args[2]);
    uint64_t contract = PyLong_AsUnsignedLongLong(args[3]), epoch = PyLong_AsUnsignedLongLong(args[4]);
    uint64_t number = PyLong_AsUnsignedLongLong(args[5]), first = PyLong_AsUnsignedLongLong(args[6]);
    uint64_t packet_size = PyLong_AsUnsignedLongLong(args[7]);
    if (PyErr_Occurred())
        return NULL;
    if (packet_size == 0 || packet_size > 0xFFFFFFFF || contract > 0xFFFFFFFF)
        Py_RETURN_NONE;
    Run run = {(uint32_t)contract, (uint32_t)packet_size, most_bytes, epoch, number, first, 0};
    Py_ssize_t pieces = take_pieces(self, args[0], (PyTypeObject *)args[1], &run);
    int whole = pieces > 0 ? write_pieces(self, pieces, &run) : (int)pieces;
    if (whole < 0)
        return NULL;
    if (whole == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("KKK", (unsigned long long)(run.number - number), (unsigned long long)(run.first - first),
                         (unsigned long long)run.size_bytes);
}

PyDoc_STRVAR(ring_send_doc,
"send(publish, most)\n\n"
"Call `publish` with each of the newest so many batches that are still held, in place, the oldest of them first.");

static PyObject *ring_send(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "send takes what to call and a number");
        return NULL;
    }
    uint64_t most = PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred() || !ring_is_open((Ring *)object) || send_newest((Ring *)object, args[0], most) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* As `send`: 0, or -1 with an exception. */
int send_newest(Ring *self, PyObject *publish, uint64_t most)
{
    uint64_t at = self->head - self->tail > most ? self->head - most : self->tail;
    for (; at < self->head; at++) {
        const uint64_t *slot = slot_words(self, at);
        uint64_t length = slot[COUNT_AND_LENGTH] & 0xFFFFFFFF, offset = slot[POSITION] % self->data_bytes;
        if (length > self->data_bytes - offset) /* others can write to what is shared */
            length = 0;
        if (Py_TYPE(publish) == sender_type) {
            if (send_by(publish, self->data + offset, (Py_ssize_t)length) < 0)
                return -1;
            continue;
        }
        PyObject *raw = in_place(self, self->data + offset, (Py_ssize_t)length);
        PyObject *done = raw ? PyObject_CallFunctionObjArgs(publish, raw, NULL) : NULL;
        Py_XDECREF(raw);
        Py_XDECREF(done);
        if (done == NULL)
            return -1;
    }
    return 0;
}

/* `batch`, with what it takes to see whether it was overwritten since. */
static PyObject *loaned(PyObject *batch, PyObject *owner, uint64_t slot)
{
    PyObject *number = batch ? PyLong_FromUnsignedLongLong(slot) : NULL;
    if (batch && (number == NULL || PyObject_SetAttr(batch, s_slot, number) < 0 || PyObject_SetAttr(batch, s_ring, owner) < 0))
        Py_CLEAR(batch);
    Py_XDECREF(number);
    return batch;
}

/* Whether `slot` holds what its table says it does; figures that were torn apart are found out by that, or lead nowhere. */
static int is_held(Ring *self, uint64_t at)
{
    return LOAD(&self->words[TAIL]) <= at && LOAD(&self->words[HEAD]) > at && LOAD(&slot_words(self, at)[NUMBER_PLUS_ONE]) == at + 1;
}

/* The batch in slot `at`; its bytes where it is not plain. Py_None where there is none to be had. */
PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, Taken *taken)
{
    uint64_t *slot = slot_words(self, at);
    uint64_t held = is_held(self, at), position = LOAD(&slot[POSITION]);
    uint64_t length = LOAD(&slot[COUNT_AND_LENGTH]) & 0xFFFFFFFF;
    if (!held || length >= asked->most_bytes || length > self->data_bytes ||
        position % self->data_bytes > self->data_bytes - length)
        Py_RETURN_NONE;
    const unsigned char *begin = self->data + position % self->data_bytes;
    unsigned char head[HEAD_BYTES + 1 + MAX_VARINT] = {0};
    memcpy(head, begin, length < sizeof head ? (size_t)length : sizeof head);
    if (asked->next && !is_next(head, asked->next))
        Py_RETURN_NONE;
    int copied = asked->owner == Py_None;
    PyObject *raw = copied ? PyBytes_FromStringAndSize((const char *)begin, (Py_ssize_t)length) : in_place(self, begin, (Py_ssize_t)length);
    if (raw == NULL)
        return NULL;
    const unsigned char *bytes = copied ? (const unsigned char *)PyBytes_AsString(raw) : begin;
    Plain plain = plain_layout(copied ? bytes : head, bytes, (Py_ssize_t)length, asked->major);
    if (plain.arrivals)
        *taken = taken_of(copied ? bytes : head, bytes, &plain);
    PyObject *batch = raw;
    if (plain.arrivals && copied)
        batch = decoded_bytes(raw, bytes, (Py_ssize_t)length, &plain, asked->batch, asked->arrivals);
    else if (plain.arrivals)
        batch = loaned(decoded(raw, head, bytes, &plain, in_place(self, begin + plain.payload, (Py_ssize_t)length - plain.payload),
                             asked->batch, asked->arrivals),
                     asked->owner, at);
    if (batch != raw)
        Py_DECREF(raw);
    if (batch == NULL)
        return NULL;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!is_held(self, at) || (asked->next && plain.arrivals == 0)) {
        Py_DECREF(batch);
        Py_RETURN_NONE;
    }
    return batch;
}

PyDoc_STRVAR(ring_take_doc,
"take(most_bytes, major, EncodedBatch, Arrivals, slot)\n"
"-> EncodedBatch, or its bytes where it is not packets of one size with their arrivals and nothing else;\n"
"None if the slot is not held, was overwritten meanwhile, or has most_bytes or more");

static PyObject *ring_take(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (given != 5 || !PyType_Check(args[2]) || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "take takes two numbers, two types and a number");
        return NULL;
    }
    if (!ring_is_open(self))
        return NULL;
    Asked asked = {PyLong_AsUnsignedLongLong(args[0]), (uint32_t)PyLong_AsUnsignedLong(args[1]),
                   (PyTypeObject *)args[2], (PyTypeObject *)args[3], Py_None, NULL};
    uint64_t at = PyLong_AsUnsignedLongLong(args[4]);
    Taken taken;
    return PyErr_Occurred() ? NULL : take_slot(self, at, &asked, &taken);
}

PyDoc_STRVAR(ring_will_sleep_doc,
"will_sleep(head) -> whether the head is still there, with the flag raised that has the writer wake us, and the ring not closed");

int will_sleep(Ring *self, uint64_t head)
{
    STORE(&self->words[WAITING], 1); /* before the look at the head, never after */
    return LOAD(&self->words[HEAD]) == head && !LOAD(&self->words[STATE]);
}

static PyObject *ring_will_sleep(PyObject *object, PyObject *head)
{
    Ring *self = (Ring *)object;
    uint64_t seen = PyLong_AsUnsignedLongLong(head);
    if (PyErr_Occurred() || !ring_is_open(self))
        return NULL;
    return PyBool_FromLong(will_sleep(self, seen));
}

/* time.monotonic_ns() */
uint64_t now_ns(void)
{
    struct timespec now;
#if defined(__APPLE__)
    clock_gettime(CLOCK_UPTIME_RAW, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

PyDoc_STRVAR(ring_spin_wait_doc,
"spin_wait(head, most_ns) -> whether the head has moved beyond `head` meanwhile\n\n"
"Look again and again, with a processor's pause between, while other threads of the interpreter go on. After it was in vain,\n"
"the next call returns at once, then the next three, seven, at the most so many.");

enum { SELDOM = 255 };

int spin_waited(Ring *self, uint64_t head, uint64_t most_ns)
{
    if (self->sleeps > 0) {
        self->sleeps--;
        return 0;
    }
    const uint64_t *words = self->words;
    PyObject *kept = self->whole; /* so that the memory stays, whatever the others do */
    int moved;
    Py_INCREF(kept);
    Py_BEGIN_ALLOW_THREADS
    uint64_t until = now_ns() + most_ns;
    do {
        for (int i = 0; i < 16 && LOAD(&words[HEAD]) == head; i++)
            PAUSE();
        moved = LOAD(&words[HEAD]) != head;
    } while (!moved && now_ns() < until);
    Py_END_ALLOW_THREADS
    Py_DECREF(kept);
    self->seldom = moved ? 0 : self->seldom < SELDOM ? 2 * self->seldom + 1 : SELDOM;
    self->sleeps = self->seldom;
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
    {"write", (PyCFunction)(void (*)(void))ring_write, METH_FASTCALL, ring_write_doc},
    {"write_run", (PyCFunction)(void (*)(void))ring_write_run, METH_FASTCALL, ring_write_run_doc},
    {"send", (PyCFunction)(void (*)(void))ring_send, METH_FASTCALL, ring_send_doc},
    {"take", (PyCFunction)(void (*)(void))ring_take, METH_FASTCALL, ring_take_doc},
    {"will_sleep", ring_will_sleep, METH_O, ring_will_sleep_doc},
    {"spin_wait", (PyCFunction)(void (*)(void))ring_spin_wait, METH_FASTCALL, ring_spin_wait_doc},
    {"close", ring_close, METH_NOARGS, "Let go of the memory; idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef ring_members[] = {
    {"next_number", T_ULONGLONG, offsetof(Ring, next_number), 0, "of the batch behind what was written last"},
    {"next_sequence", T_ULONGLONG, offsetof(Ring, next_sequence), 0, "of the packet behind what was written last"},
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
