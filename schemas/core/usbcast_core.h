/* The hot path of a batch, in C11 without Python: the bytes of a batch, the memory of a ring, messages through libzmq.
 *
 * constants.c: what Python has too. batch.c: bytes of a batch. ring.c: the memory of a ring, by its writer and its readers.
 * stream_writer.c: transfers into a ring. messages.c: out of a ZeroMQ socket. fanout.c: into a publishing one. The layouts are those of
 * docs/wire.md; usbcast_schemas/batch.py and ring/ do the same in
 * Python and say why. schemas/native/ makes a Python module of this; a program in C includes this header and compiles the files.
 *
 * Errors are return codes: 0 or more is success, and what a positive number means stands with each function; a negative number is
 * one of UsbcastError. Nothing here prints, aborts, locks a lock that its caller sees, or waits, but for what says so.
 */
#ifndef USBCAST_CORE_H
#define USBCAST_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian: on this machine the work is done in Python"
#endif

#pragma GCC visibility push(hidden) /* nothing but what Python looks for is seen outside of a shared library */

typedef enum {
    USBCAST_OK = 0,
    USBCAST_NO_MEMORY = -1,     /* no memory could be allocated */
    USBCAST_WAKE_FAILED = -2,   /* the batch is in the ring, and the fifo could not be written to: errno says why */
    USBCAST_WRONG_SIZES = -3,   /* the memory is not as large as a ring of these sizes */
    USBCAST_TOO_LARGE = -4,     /* the batch is larger than the ring */
    USBCAST_SOCKET_FAILED = -5, /* libzmq refused: usbcast_zmq.error() says why */
    USBCAST_INTERRUPTED = -6,   /* the caller's own function had the call given up */
} UsbcastError;

static inline uint32_t usbcast_get32(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static inline uint64_t usbcast_get64(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return value; }

/* ---- constants.c ---- */

/* A constant of the layouts or of what is done with them, by the name that it has in Python. */
typedef struct {
    const char *name;
    int64_t value;
} UsbcastConstant;

/* All that Python has too; the last one has no name. Whoever has them twice compares them. */
extern const UsbcastConstant usbcast_constants[];

/* ---- batch.c ---- */

enum { USBCAST_MAX_PACKETS = 65536 }; /* of a batch, and arrivals */

/* The tags of the fields of a plain batch. */
enum {
    USBCAST_TAG_CONTRACT = 0x0D, USBCAST_TAG_COUNT = 0x15, USBCAST_TAG_EPOCH = 0x19, USBCAST_TAG_NUMBER = 0x21,
    USBCAST_TAG_FIRST = 0x29, USBCAST_TAG_SIZE = 0x35, USBCAST_TAG_COUNTS = 0x42, USBCAST_TAG_REALTIMES = 0x4A,
    USBCAST_TAG_MONOTONICS = 0x52, USBCAST_TAG_PAYLOAD = 0x7A
};

/* Bytes before the arrivals; the most of a length; and what a reader of memory that may change copies first. */
enum { USBCAST_HEAD_BYTES = 42, USBCAST_MAX_VARINT = 10, USBCAST_FIRST_BYTES = USBCAST_HEAD_BYTES + 1 + USBCAST_MAX_VARINT };

/* A transfer, or a part of one that is larger than a batch. Its bytes belong to the caller. */
typedef struct {
    const unsigned char *bytes;
    int64_t size; /* a multiple of the packet size, and not 0 */
    int64_t realtime_ns, monotonic_ns;
} UsbcastPiece;

/* Batches that follow one another: what is the same for all, and what comes next. */
typedef struct {
    uint32_t contract, packet_size;
    int64_t most_bytes; /* of the payload of a batch */
    uint64_t epoch, number, first, size_bytes;
} UsbcastRun;

/* Bytes of a batch of `count` pieces before its payload. */
uint64_t usbcast_head_size(int64_t count, uint64_t payload_bytes);

/* Write these bytes; return where the payload goes. */
unsigned char *usbcast_put_head(unsigned char *at, const UsbcastPiece *pieces, int64_t count, uint64_t payload_bytes,
                                const UsbcastRun *run);

/* A plain batch: whole packets of one size, with one column of arrivals of each kind and nothing else to say. */
typedef struct {
    int64_t arrivals;                      /* 0 if it is anything else */
    int64_t counts, realtimes, monotonics; /* where the columns begin */
    int64_t payload;
} UsbcastPlain;

/* The layout of the batch in the `size` bytes at `raw`. `head` is its first USBCAST_FIRST_BYTES, or `raw` itself: a copy, where somebody
 * may be writing to `raw` meanwhile. What is found then may be wrong, but it never leads outside of `raw`. */
UsbcastPlain usbcast_plain_layout(const unsigned char *head, const unsigned char *raw, int64_t size, uint32_t major);

/* What a reader counts of a plain batch that it has received. */
typedef struct {
    uint64_t packets;
    int64_t realtime_ns, monotonic_ns; /* of its last arrival */
} UsbcastTaken;

UsbcastTaken usbcast_taken_of(const unsigned char *head, const unsigned char *raw, const UsbcastPlain *plain);

/* Where the next batch of a run is expected to go on. */
typedef struct {
    uint64_t epoch, number, first;
} UsbcastNext;

/* Return 1 if the batch that begins with `head` is that one and holds packets. */
int usbcast_is_next(const unsigned char *head, const UsbcastNext *next);

/* The figures in the head of a batch. */
static inline uint32_t usbcast_batch_packets(const unsigned char *head) { return usbcast_get32(head + 6); }
static inline uint64_t usbcast_batch_epoch(const unsigned char *head) { return usbcast_get64(head + 11); }
static inline uint64_t usbcast_batch_number(const unsigned char *head) { return usbcast_get64(head + 20); }
static inline uint64_t usbcast_batch_first(const unsigned char *head) { return usbcast_get64(head + 29); }
static inline uint32_t usbcast_batch_packet_size(const unsigned char *head) { return usbcast_get32(head + 38); }

/* ---- ring.c ---- */

enum { USBCAST_RING_HEADER_BYTES = 4096, USBCAST_RING_SLOT_WORDS = 6 };

/* Words of a ring's header, and of a slot. */
enum { USBCAST_RING_HEAD = 16, USBCAST_RING_TAIL = 17, USBCAST_RING_WAITING = 24, USBCAST_RING_STATE = 33 };
enum {
    USBCAST_SLOT_NUMBER_PLUS_ONE, USBCAST_SLOT_BATCH_NUMBER, USBCAST_SLOT_FIRST_SEQUENCE, USBCAST_SLOT_COUNT_AND_LENGTH,
    USBCAST_SLOT_POSITION, USBCAST_SLOT_CHECKSUM
};

/* A writer's or a reader's hold on the memory of a ring, which belongs to the caller and stays as long as this is used. One thread at a
 * time uses it; other processes write to, and read, the same memory. */
typedef struct {
    uint64_t *words;
    unsigned char *data;
    uint64_t slots, data_bytes;
    uint64_t head, tail, position;       /* the writer's own: others can write to what is shared */
    uint64_t next_number, next_sequence; /* of what is written next, if it follows */
    int wake_fd;                         /* the writer's end of the fifo; -1 in a reader */
    UsbcastPiece *pieces;                /* room for a run */
    int64_t most_pieces;
    unsigned char *joined; /* and for a batch of many small ones */
    uint64_t joined_bytes;
    int sleeps, seldom; /* spin back-off: polls left to skip, and the length of the last skip */
} UsbcastRing;

/* Begin to use `memory`, of `size` bytes, as a ring of these sizes; `ring` is zero at first, and may have been freed.
 * USBCAST_WRONG_SIZES. */
int usbcast_ring_init(UsbcastRing *ring, void *memory, uint64_t size, uint64_t slots, uint64_t data_bytes, int wake_fd);

/* Free what `ring` has allocated; the memory of the ring is the caller's. */
void usbcast_ring_free(UsbcastRing *ring);

static inline uint64_t usbcast_ring_head(const UsbcastRing *ring)
{
    return __atomic_load_n(&ring->words[USBCAST_RING_HEAD], __ATOMIC_SEQ_CST);
}

static inline uint64_t usbcast_ring_tail(const UsbcastRing *ring)
{
    return __atomic_load_n(&ring->words[USBCAST_RING_TAIL], __ATOMIC_SEQ_CST);
}

/* The writer: one batch in any number of parts. Begin it, copy `length` bytes in all with usbcast_ring_copy, then show it. A batch that
 * was begun and is not shown does not exist.
 *
 * NULL if it is larger than the ring. */
unsigned char *usbcast_ring_begin(UsbcastRing *ring, uint64_t length, uint64_t *position);

/* Copy `size` bytes of a batch of `length`; return where the next ones go. */
unsigned char *usbcast_ring_copy(unsigned char *to, const void *from, uint64_t size, uint64_t length);

/* Show the batch at `position` to readers, and wake those that sleep. USBCAST_WAKE_FAILED. */
int usbcast_ring_show(UsbcastRing *ring, uint64_t position, uint64_t length, uint64_t number, uint64_t first, uint64_t packets);

/* The writer: a run of plain batches. Add each transfer to `ring->pieces`, of which `count` are in use, cut so that each fits into a
 * batch (a packet that is larger than a batch is one by itself); return the new count. USBCAST_NO_MEMORY. */
int64_t usbcast_ring_add_transfer(UsbcastRing *ring, int64_t count, const UsbcastPiece *transfer, const UsbcastRun *run);

/* Write the first `count` pieces as batches, each of as many as its payload may have, and advance `run`. Return 1; 0, with nothing done, if they would
 * take more than half of the ring. USBCAST_NO_MEMORY, with nothing done; USBCAST_WAKE_FAILED, with `run` at the batch that is shown. */
int usbcast_ring_write_pieces(UsbcastRing *ring, int64_t count, UsbcastRun *run);

/* The writer: the slot of the oldest of the newest `most` batches that are still held; the newest is the one before `ring->head`. */
uint64_t usbcast_ring_first_of_newest(const UsbcastRing *ring, uint64_t most);

/* The writer: the bytes of a slot that it holds. */
const unsigned char *usbcast_ring_written(const UsbcastRing *ring, uint64_t slot, uint64_t *size);

/* What a reader sees of a slot. The bytes are the ring's own: the writer may overwrite them at any time. */
typedef struct {
    const unsigned char *bytes;
    uint64_t size;
    unsigned char first[USBCAST_FIRST_BYTES]; /* a copy of the first ones, and zeros */
} UsbcastHeld;

/* A reader: look up a slot. Return 1; 0 if it is not held (any more, or yet), has `most_bytes` or more, or its words lead outside. */
int usbcast_ring_find(const UsbcastRing *ring, uint64_t slot, uint64_t most_bytes, UsbcastHeld *held);

/* A reader: return 1 if nothing of the slot had been overwritten when its bytes were read, which was before this is called. */
int usbcast_ring_is_intact(const UsbcastRing *ring, uint64_t slot);

/* A reader: raise the flag that has the writer wake those that sleep. Return 1 if the head is still at `head` and the ring is not
 * closed, so that the caller may sleep. */
int usbcast_ring_will_sleep(UsbcastRing *ring, uint64_t head);

/* A reader: poll the head instead of sleeping. Three steps, as the caller may let others go on during the second, which waits: may it spin
 * now; spin, up to `most_ns`, and return 1 if the head has moved beyond `head`; remember that. After it was in vain the first step
 * says no at once, then three, seven and at the most 255 times. */
int usbcast_ring_may_spin(UsbcastRing *ring);
int usbcast_ring_spin(const uint64_t *words, uint64_t head, uint64_t most_ns);
void usbcast_ring_spun(UsbcastRing *ring, int moved);

/* For how long a reader spins: to sleep and be woken costs both sides some 10 µs each. */
enum { USBCAST_SPIN_WAIT_NS = 30000 };

/* The monotonic clock, as Python's time.monotonic_ns(). */
uint64_t usbcast_now_ns(void);

/* ---- stream_writer.c ---- */

/* How transfers become batches without framing; usbcast_schemas/engine/protocols.py explains the fields. */
typedef struct {
    uint32_t packet_size;
    int64_t max_payload_bytes, not_before_ns, spacing_ns;
} UsbcastPlan;

/* What was put since the tally was taken, and the times of the last transfer. */
typedef struct {
    uint64_t batches, packets, size_bytes;
    int64_t realtime_ns, monotonic_ns;
} UsbcastTally;

/* The writer of one epoch of a stream. Zero, but for the first three, at the beginning. */
typedef struct {
    UsbcastRing *ring;
    uint32_t contract;
    uint64_t epoch;
    uint64_t unsent; /* how many of the newest batches have not been sent; the caller sends, and resets it */
    UsbcastTally tally;
} UsbcastStreamWriter;

/* Write the first `count` of the ring's pieces, at least one, as batches, and count them. Return 1; 0, with nothing done, if they come too
 * soon for the plan or would take more than half of the ring. As usbcast_ring_write_pieces. */
int usbcast_writer_put(UsbcastStreamWriter *writer, int64_t count, UsbcastPlan *plan);

/* ---- messages.c ---- */

/* A zmq_msg_t. */
typedef union {
    unsigned char bytes[64];
    void *aligned;
} UsbcastFrame;

enum { USBCAST_ZMQ_DONTWAIT = 1, USBCAST_ZMQ_SNDMORE = 2, USBCAST_ZMQ_SRCFD = 2, USBCAST_ZMQ_FD = 14, USBCAST_ZMQ_EVENTS = 15 };

/* The functions of zmq.h that are used here. */
typedef struct {
    int (*init)(UsbcastFrame *);
    int (*init_size)(UsbcastFrame *, size_t);
    int (*copy)(UsbcastFrame *, UsbcastFrame *);
    void *(*data)(UsbcastFrame *);
    size_t (*size)(const UsbcastFrame *);
    int (*more)(const UsbcastFrame *);
    int (*property)(const UsbcastFrame *, int);
    const char *(*text)(const UsbcastFrame *, const char *);
    int (*send)(UsbcastFrame *, void *, int);
    int (*recv)(UsbcastFrame *, void *, int);
    int (*close)(UsbcastFrame *);
    int (*option)(void *, int, void *, size_t *);
    int (*error)(void);
    const char *(*words)(int);
} UsbcastZmq;

extern UsbcastZmq usbcast_zmq;

/* Find them in the library at `path`, or in what that has loaded. Return 1 if they are there, now or since an earlier call; else 0. */
int usbcast_find_libzmq(const char *path);

/* Return 1 if they were found. */
int usbcast_has_libzmq(void);

/* Called when a signal has interrupted libzmq: not 0 if the call is to be given up. NULL: it goes on. */
typedef int (*UsbcastInterrupted)(void);

/* Receive a frame without waiting. Return 1; 0, with `frame` closed, if none has come. USBCAST_SOCKET_FAILED, USBCAST_INTERRUPTED. */
int usbcast_receive_frame(void *socket, UsbcastFrame *frame, UsbcastInterrupted interrupted);

/* Receive the first two frames of the next message. Return how many came: 0 if none has; 1 if it has only one. If there are more than
 * two, `more` says so of the second, and they are still to be received. USBCAST_SOCKET_FAILED, USBCAST_INTERRUPTED, with both closed. */
int usbcast_receive_pair(void *socket, UsbcastFrame frames[2], UsbcastInterrupted interrupted);

/* ---- fanout.c ---- */

/* A message of two frames. */
typedef struct {
    UsbcastFrame topic, body;
} UsbcastPair;

/* Make a message of copies of these bytes. USBCAST_SOCKET_FAILED. */
int usbcast_make_pair(UsbcastPair *pair, const void *topic, size_t topic_size, const void *body, size_t body_size);

/* Make a second one that shares its bytes. */
void usbcast_copy_pair(UsbcastPair *to, UsbcastPair *from);

typedef struct UsbcastFanout UsbcastFanout;

/* As usbcast_schemas/fanout.py, which says why. */
enum { USBCAST_MOST_WAITING = 512, USBCAST_MOST_SAID = 100, USBCAST_LOOK_MS = 1000 };

/* Make the fan-out of a publishing socket; NULL, with a negative number in `error`: USBCAST_SOCKET_FAILED, USBCAST_NO_MEMORY. */
UsbcastFanout *usbcast_fanout_new(void *socket, int *error);

/* Free it, and what waits; the socket is not touched. */
void usbcast_fanout_free(UsbcastFanout *fanout);

/* Messages for which there was no room to wait. */
uint64_t usbcast_fanout_dropped(const UsbcastFanout *fanout);

/* Send a message now, or leave it to the thread that attends, in order; one sender at a time. It belongs to the fan-out from now on. Return 0, or
 * the positive error number of libzmq. Never waits. */
int usbcast_fanout_put(UsbcastFanout *fanout, UsbcastPair *pair);

/* Wait until subscribers have said something or the descriptor `bell` is readable, and meanwhile carry out what peers cause and send what
 * waits. For one thread. Return 0, or the positive error number of libzmq; `said` are then `*count` frames, to be closed by the caller. */
int usbcast_fanout_attend(UsbcastFanout *fanout, int bell, UsbcastFrame said[USBCAST_MOST_SAID], int *count);

#pragma GCC visibility pop

#endif
