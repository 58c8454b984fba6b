/* The bytes of a batch. */
#include "usbcast_core.h"

enum { ONE_ARRIVAL_BYTES = 26 }; /* of its three columns */

/* ---- Into bytes ---- */

static unsigned char *put8(unsigned char *at, uint8_t value) { *at = value; return at + 1; }
static unsigned char *put32(unsigned char *at, uint32_t value) { memcpy(at, &value, 4); return at + 4; }
static unsigned char *put64(unsigned char *at, uint64_t value) { memcpy(at, &value, 8); return at + 8; }

static unsigned char *put_varint(unsigned char *at, uint64_t value)
{
    for (; value > 0x7F; value >>= 7)
        at = put8(at, (uint8_t)(value | 0x80));
    return put8(at, (uint8_t)value);
}

static unsigned char *put_column32(unsigned char *at, uint8_t tag, const UsbcastPiece *pieces, int64_t count, uint32_t packet_size)
{
    at = put_varint(put8(at, tag), (uint64_t)count * 4);
    for (int64_t i = 0; i < count; i++)
        at = put32(at, (uint32_t)(pieces[i].size / packet_size));
    return at;
}

static unsigned char *put_column64(unsigned char *at, uint8_t tag, const UsbcastPiece *pieces, int64_t count, int monotonic)
{
    at = put_varint(put8(at, tag), (uint64_t)count * 8);
    for (int64_t i = 0; i < count; i++)
        at = put64(at, (uint64_t)(monotonic ? pieces[i].monotonic_ns : pieces[i].realtime_ns));
    return at;
}

static int64_t varint_size(uint64_t value)
{
    int64_t size = 1;
    for (; value > 0x7F; value >>= 7)
        size++;
    return size;
}

uint64_t usbcast_head_size(int64_t count, uint64_t payload_bytes)
{
    return (uint64_t)(USBCAST_HEAD_BYTES + 4 + varint_size((uint64_t)count * 4) + 2 * varint_size((uint64_t)count * 8) + count * 20 +
                      varint_size(payload_bytes));
}

/* One arrival is one column of each kind, of one entry. */
unsigned char *usbcast_put_head(unsigned char *at, const UsbcastPiece *pieces, int64_t count, uint64_t payload_bytes,
                                const UsbcastRun *run)
{
    at = put32(put8(at, USBCAST_TAG_CONTRACT), run->contract);
    at = put32(put8(at, USBCAST_TAG_COUNT), (uint32_t)(payload_bytes / run->packet_size));
    at = put64(put8(at, USBCAST_TAG_EPOCH), run->epoch);
    at = put64(put8(at, USBCAST_TAG_NUMBER), run->number);
    at = put64(put8(at, USBCAST_TAG_FIRST), run->first);
    at = put32(put8(at, USBCAST_TAG_SIZE), run->packet_size);
    at = put_column32(at, USBCAST_TAG_COUNTS, pieces, count, run->packet_size);
    at = put_column64(at, USBCAST_TAG_REALTIMES, pieces, count, 0);
    at = put_column64(at, USBCAST_TAG_MONOTONICS, pieces, count, 1);
    return put_varint(put8(at, USBCAST_TAG_PAYLOAD), payload_bytes);
}

/* ---- Out of bytes ---- */

/* Where the entries of a column begin, if `at` begins one of `tag` with so many bytes, all of it before `size`; else 0. */
static int64_t column_at(const unsigned char *raw, int64_t size, int64_t at, uint8_t tag, uint64_t bytes)
{
    unsigned char expected[1 + USBCAST_MAX_VARINT];
    int64_t length = put_varint(put8(expected, tag), bytes) - expected;
    if (at <= 0 || at > size - length || bytes > (uint64_t)(size - length - at) || memcmp(raw + at, expected, (size_t)length))
        return 0;
    return at + length;
}

UsbcastPlain usbcast_plain_layout(const unsigned char *head, const unsigned char *raw, int64_t size, uint32_t major)
{
    UsbcastPlain found = {0, 0, 0, 0, 0}, none = found;
    if (size < USBCAST_HEAD_BYTES + ONE_ARRIVAL_BYTES + 2)
        return none;
    if (head[0] != USBCAST_TAG_CONTRACT || head[5] != USBCAST_TAG_COUNT || head[10] != USBCAST_TAG_EPOCH || head[19] != USBCAST_TAG_NUMBER || head[28] != USBCAST_TAG_FIRST ||
        head[37] != USBCAST_TAG_SIZE || usbcast_get32(head + 1) >> 16 != major || head[USBCAST_HEAD_BYTES] != USBCAST_TAG_COUNTS)
        return none;
    uint64_t packets = usbcast_batch_packets(head), packet_size = usbcast_batch_packet_size(head), bytes = 0, summed = 0;
    if (packets > USBCAST_MAX_PACKETS || usbcast_batch_first(head) > UINT64_MAX - packets || usbcast_batch_number(head) == UINT64_MAX)
        return none; /* what comes next must have a sequence and a number of 64 bits */
    for (int i = 0; i < 4; i++) { /* no more than 2^28 bytes of counts */
        uint64_t digit = head[USBCAST_HEAD_BYTES + 1 + i];
        bytes |= (digit & 0x7F) << 7 * i;
        if (digit < 0x80)
            break;
    }
    int64_t count = (int64_t)(bytes / 4);
    if (packet_size == 0 || count == 0 || (uint64_t)count > packets)
        return none;
    uint64_t of_times = (uint64_t)count * 8;
    found.counts = column_at(raw, size, USBCAST_HEAD_BYTES, USBCAST_TAG_COUNTS, (uint64_t)count * 4);
    found.realtimes = column_at(raw, size, found.counts ? found.counts + count * 4 : 0, USBCAST_TAG_REALTIMES, of_times);
    found.monotonics = column_at(raw, size, found.realtimes ? found.realtimes + count * 8 : 0, USBCAST_TAG_MONOTONICS, of_times);
    found.payload = column_at(raw, size, found.monotonics ? found.monotonics + count * 8 : 0, USBCAST_TAG_PAYLOAD, packets * packet_size);
    if (found.payload == 0 || packets * packet_size != (uint64_t)(size - found.payload))
        return none;
    for (int64_t i = 0; i < count; i++)
        summed += usbcast_get32(raw + found.counts + 4 * i);
    found.arrivals = summed == packets ? count : 0;
    return found;
}

UsbcastTaken usbcast_taken_of(const unsigned char *head, const unsigned char *raw, const UsbcastPlain *plain)
{
    int64_t last = 8 * (plain->arrivals - 1);
    return (UsbcastTaken){usbcast_batch_packets(head), (int64_t)usbcast_get64(raw + plain->realtimes + last),
                          (int64_t)usbcast_get64(raw + plain->monotonics + last)};
}

int usbcast_is_next(const unsigned char *head, const UsbcastNext *next)
{
    return usbcast_batch_epoch(head) == next->epoch && usbcast_batch_number(head) == next->number &&
           usbcast_batch_first(head) == next->first && usbcast_batch_packets(head);
}
