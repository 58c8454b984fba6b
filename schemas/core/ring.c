/* The memory of a ring, by its writer and its readers. usbcast_schemas/ring/ says why the stores have the order that they have. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#include "usbcast_core.h"
#include "atomic.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif

enum { FIRST_SLOT = USBCAST_RING_HEADER_BYTES / 8, SLOT_BYTES = USBCAST_RING_SLOT_WORDS * 8 };

/* From so many bytes on a batch is written past the caches, and pieces shorter than that on average are joined before. */
enum { PAST_CACHES_BYTES = 32 * 1024, SHORT_BYTES = 4096 };

enum { MOST_SKIPPED = 255 }; /* of polls, after spinning was in vain */

int usbcast_ring_init(UsbcastRing *ring, void *memory, uint64_t size, uint64_t slots, uint64_t data_bytes, int wake_fd)
{
    /* By subtraction and division: the figures are anybody's, and their sum may wrap. */
    uint64_t beyond = size < USBCAST_RING_HEADER_BYTES ? 0 : size - USBCAST_RING_HEADER_BYTES;
    if (slots == 0 || slots > beyond / SLOT_BYTES || data_bytes == 0 || beyond - slots * SLOT_BYTES != data_bytes)
        return USBCAST_WRONG_SIZES;
    ring->words = memory;
    ring->data = (unsigned char *)memory + (size - data_bytes);
    ring->slots = slots;
    ring->data_bytes = data_bytes;
    ring->head = ring->tail = ring->position = 0;
    ring->wake_fd = wake_fd;
    return USBCAST_OK;
}

void usbcast_ring_free(UsbcastRing *ring)
{
    free(ring->pieces);
    free(ring->joined);
    ring->pieces = NULL;
    ring->joined = NULL;
    ring->most_pieces = 0;
    ring->joined_bytes = 0;
}

static uint64_t *slot_words(const UsbcastRing *ring, uint64_t slot)
{
    return ring->words + FIRST_SLOT + slot % ring->slots * USBCAST_RING_SLOT_WORDS;
}

/* ---- The writer ---- */

unsigned char *usbcast_ring_begin(UsbcastRing *ring, uint64_t length, uint64_t *begins)
{
    uint64_t size = ring->data_bytes, position = ring->position, head = ring->head, tail = ring->tail;
    if (length > size)
        return NULL;
    if (position % size + length > size)
        position += size - position % size;
    uint64_t end = position + length;
    while (tail < head && (head - tail >= ring->slots || slot_words(ring, tail)[USBCAST_SLOT_POSITION] + size < end))
        tail++;
    if (tail != ring->tail) {
        ring->tail = tail;
        STORE(&ring->words[USBCAST_RING_TAIL], tail); /* before the first byte is overwritten */
    }
    *begins = position;
    return ring->data + position % size;
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
            return USBCAST_WAKE_FAILED;
        }
    }
    return USBCAST_OK;
}

int usbcast_ring_show(UsbcastRing *ring, uint64_t position, uint64_t length, uint64_t number, uint64_t first, uint64_t packets)
{
    uint64_t head = ring->head, *slot = slot_words(ring, head);
    slot[USBCAST_SLOT_NUMBER_PLUS_ONE] = head + 1;
    slot[USBCAST_SLOT_BATCH_NUMBER] = number;
    slot[USBCAST_SLOT_FIRST_SEQUENCE] = first;
    slot[USBCAST_SLOT_COUNT_AND_LENGTH] = packets << 32 | length;
    slot[USBCAST_SLOT_POSITION] = position;
    slot[USBCAST_SLOT_CHECKSUM] = 0;
    ring->position = (position + length + 7) & ~(uint64_t)7;
    ring->head = head + 1;
    ring->next_number = number + 1;
    ring->next_sequence = first + packets;
    STORE(&ring->words[USBCAST_RING_HEAD], head + 1);
    if (!LOAD(&ring->words[USBCAST_RING_WAITING]))
        return USBCAST_OK;
    STORE(&ring->words[USBCAST_RING_WAITING], 0); /* before the wake-up is sent, never after */
    return wake(ring->wake_fd);
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

unsigned char *usbcast_ring_copy(unsigned char *to, const void *from, uint64_t size, uint64_t length)
{
    copy(to, from, (size_t)size, length >= PAST_CACHES_BYTES);
    return to + size;
}

static int make_room_for_pieces(UsbcastRing *ring, int64_t count)
{
    if (count <= ring->most_pieces)
        return USBCAST_OK;
    int64_t most = 2 * ring->most_pieces > count ? 2 * ring->most_pieces : count;
    UsbcastPiece *more = realloc(ring->pieces, (size_t)most * sizeof *more);
    if (more == NULL)
        return USBCAST_NO_MEMORY;
    ring->pieces = more;
    ring->most_pieces = most;
    return USBCAST_OK;
}

int64_t usbcast_ring_add_transfer(UsbcastRing *ring, int64_t count, const UsbcastPiece *transfer, const UsbcastRun *run)
{
    int64_t packet_size = run->packet_size;
    int64_t most = run->most_bytes < packet_size ? packet_size : run->most_bytes - run->most_bytes % packet_size;
    for (int64_t left = transfer->size; left > 0; left -= most, count++) {
        if (make_room_for_pieces(ring, count + 1) < 0)
            return USBCAST_NO_MEMORY;
        ring->pieces[count] = (UsbcastPiece){transfer->bytes + (transfer->size - left), left < most ? left : most,
                                             transfer->realtime_ns, transfer->monotonic_ns};
    }
    return count;
}

/* Up to which piece the batch that begins with piece `at` goes, and its bytes of payload: as many as have room, at least one. */
static int64_t batch_until(const UsbcastPiece *pieces, int64_t at, int64_t count, int64_t most_bytes, uint64_t *payload_bytes)
{
    int64_t size = pieces[at].size;
    for (at++; at < count && size + pieces[at].size <= most_bytes; at++)
        size += pieces[at].size;
    *payload_bytes = (uint64_t)size;
    return at;
}

/* What is written past the caches is written in long pieces; short ones are put together before, in memory that is in a cache. */
static int is_joined(uint64_t length, uint64_t payload_bytes, int64_t count)
{
    return length >= PAST_CACHES_BYTES && payload_bytes < (uint64_t)count * SHORT_BYTES;
}

static int make_room_to_join(UsbcastRing *ring, uint64_t length)
{
    if (length > ring->joined_bytes) {
        unsigned char *more = realloc(ring->joined, (size_t)length);
        if (more == NULL)
            return USBCAST_NO_MEMORY;
        ring->joined = more;
        ring->joined_bytes = length;
    }
    return USBCAST_OK;
}

/* See that all batches of the pieces have room: 1; 0 if they would take more than half of the ring. */
static int fits(UsbcastRing *ring, int64_t count, const UsbcastRun *run)
{
    uint64_t payload_bytes = 0, batches = 0, needed = 0;
    for (int64_t at = 0, until; at < count; at = until, batches++) {
        until = batch_until(ring->pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = usbcast_head_size(until - at, payload_bytes) + payload_bytes;
        needed += length;
        if (needed > ring->data_bytes / 2 || batches >= ring->slots / 2)
            return 0;
        if (is_joined(length, payload_bytes, until - at) && make_room_to_join(ring, length) < 0)
            return USBCAST_NO_MEMORY;
    }
    return 1;
}

int usbcast_ring_write_pieces(UsbcastRing *ring, int64_t count, UsbcastRun *run)
{
    const UsbcastPiece *pieces = ring->pieces;
    int room = fits(ring, count, run);
    if (room <= 0)
        return room;
    for (int64_t at = 0, until; at < count; at = until) {
        uint64_t payload_bytes, position;
        until = batch_until(pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = usbcast_head_size(until - at, payload_bytes) + payload_bytes, packets = payload_bytes / run->packet_size;
        int joined = is_joined(length, payload_bytes, until - at);
        int past_caches = !joined && length >= PAST_CACHES_BYTES;
        unsigned char *begin = usbcast_ring_begin(ring, length, &position), *to = joined ? ring->joined : begin;
        to = usbcast_put_head(to, pieces + at, until - at, payload_bytes, run);
        for (int64_t piece = at; piece < until; piece++) {
            copy(to, pieces[piece].bytes, (size_t)pieces[piece].size, past_caches);
            to += pieces[piece].size;
        }
        if (joined)
            copy(begin, ring->joined, (size_t)length, 1);
        int shown = usbcast_ring_show(ring, position, length, run->number, run->first, packets);
        if (shown < 0)
            return shown;
        run->number++;
        run->first += packets;
        run->size_bytes += payload_bytes;
    }
    return 1;
}

uint64_t usbcast_ring_first_of_newest(const UsbcastRing *ring, uint64_t most)
{
    return ring->head - ring->tail > most ? ring->head - most : ring->tail;
}

const unsigned char *usbcast_ring_written(const UsbcastRing *ring, uint64_t at, uint64_t *size)
{
    const uint64_t *slot = slot_words(ring, at);
    uint64_t length = slot[USBCAST_SLOT_COUNT_AND_LENGTH] & 0xFFFFFFFF, offset = slot[USBCAST_SLOT_POSITION] % ring->data_bytes;
    *size = length > ring->data_bytes - offset ? 0 : length; /* others can write to what is shared */
    return ring->data + offset;
}

/* ---- A reader ---- */

/* Whether `slot` holds what its table says it does; figures that were torn apart are found out by that, or lead nowhere. */
static int is_held(const UsbcastRing *ring, uint64_t at)
{
    return usbcast_ring_tail(ring) <= at && usbcast_ring_head(ring) > at &&
           LOAD(&slot_words(ring, at)[USBCAST_SLOT_NUMBER_PLUS_ONE]) == at + 1;
}

int usbcast_ring_find(const UsbcastRing *ring, uint64_t at, uint64_t most_bytes, UsbcastHeld *held)
{
    uint64_t *slot = slot_words(ring, at);
    int is_there = is_held(ring, at);
    uint64_t position = LOAD(&slot[USBCAST_SLOT_POSITION]), length = LOAD(&slot[USBCAST_SLOT_COUNT_AND_LENGTH]) & 0xFFFFFFFF;
    if (!is_there || length >= most_bytes || length > ring->data_bytes ||
        position % ring->data_bytes > ring->data_bytes - length)
        return 0;
    held->bytes = ring->data + position % ring->data_bytes;
    held->size = length;
    memset(held->first, 0, sizeof held->first);
    memcpy(held->first, held->bytes, length < sizeof held->first ? (size_t)length : sizeof held->first);
    return 1;
}

int usbcast_ring_is_intact(const UsbcastRing *ring, uint64_t at)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return is_held(ring, at);
}

int usbcast_ring_will_sleep(UsbcastRing *ring, uint64_t head)
{
    STORE(&ring->words[USBCAST_RING_WAITING], 1); /* before the look at the head, never after */
    return usbcast_ring_head(ring) == head && !LOAD(&ring->words[USBCAST_RING_STATE]);
}

int usbcast_ring_may_spin(UsbcastRing *ring)
{
    if (ring->sleeps == 0)
        return 1;
    ring->sleeps--;
    return 0;
}

int usbcast_ring_spin(const uint64_t *words, uint64_t head, uint64_t most_ns)
{
    uint64_t until = usbcast_now_ns() + most_ns;
    int moved;
    do {
        for (int i = 0; i < 16 && LOAD(&words[USBCAST_RING_HEAD]) == head; i++)
            PAUSE();
        moved = LOAD(&words[USBCAST_RING_HEAD]) != head;
    } while (!moved && usbcast_now_ns() < until);
    return moved;
}

void usbcast_ring_spun(UsbcastRing *ring, int moved)
{
    ring->seldom = moved ? 0 : ring->seldom < MOST_SKIPPED ? 2 * ring->seldom + 1 : MOST_SKIPPED;
    ring->sleeps = ring->seldom;
}

uint64_t usbcast_now_ns(void)
{
    struct timespec now;
#if defined(__APPLE__)
    clock_gettime(CLOCK_UPTIME_RAW, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
