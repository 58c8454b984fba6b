/* A program in C on schemas/core, for tests/schemas/test_core.py.
 *
 *   core_program write RING SLOTS DATA_BYTES CONTRACT PACKET_SIZE MOST_BYTES EPOCH PACKETS...   each number a transfer of so many packets
 *   core_program read RING SLOTS DATA_BYTES MAJOR                                      prints what is held, one batch a line
 */
#include "usbcast_core.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int write_run(UsbcastRing *ring, char **numbers, int count, UsbcastRun *run)
{
    int64_t pieces = 0;
    unsigned char **made = calloc((size_t)count, sizeof *made);
    for (int at = 0; at < count; at++) {
        int64_t size = atoll(numbers[at]) * run->packet_size;
        made[at] = malloc((size_t)size);
        for (int64_t i = 0; i < size; i++)
            made[at][i] = (unsigned char)(at + i);
        UsbcastPiece transfer = {made[at], size, 1000 + at, at};
        pieces = usbcast_ring_add_transfer(ring, pieces, &transfer, run);
        if (pieces < 0)
            return (int)pieces;
    }
    int written = usbcast_ring_write_pieces(ring, pieces, run);
    for (int at = 0; at < count; at++)
        free(made[at]);
    free(made);
    printf("%d %llu %llu\n", written, (unsigned long long)run->number, (unsigned long long)run->first);
    return written;
}

static void read_all(const UsbcastRing *ring, uint32_t major)
{
    for (uint64_t slot = usbcast_ring_tail(ring); slot < usbcast_ring_head(ring); slot++) {
        UsbcastHeld held;
        if (!usbcast_ring_find(ring, slot, UINT64_MAX, &held)) {
            printf("%llu lost\n", (unsigned long long)slot);
            continue;
        }
        unsigned char *copy = malloc((size_t)held.size);
        memcpy(copy, held.bytes, (size_t)held.size);
        if (!usbcast_ring_is_intact(ring, slot)) {
            printf("%llu lost\n", (unsigned long long)slot);
        } else {
            UsbcastPlain plain = usbcast_plain_layout(copy, copy, (int64_t)held.size, major);
            unsigned sum = 0;
            for (int64_t at = plain.payload; plain.arrivals && at < (int64_t)held.size; at++)
                sum = 31 * sum + copy[at];
            UsbcastTaken taken = {0, 0, 0};
            if (plain.arrivals)
                taken = usbcast_taken_of(copy, copy, &plain);
            printf("%llu %lld %llu %lld %u\n", (unsigned long long)slot, (long long)plain.arrivals,
                   (unsigned long long)taken.packets, (long long)taken.monotonic_ns, sum);
        }
        free(copy);
    }
}

int main(int count, char **args)
{
    int file = count > 5 ? open(args[2], O_RDWR) : -1;
    struct stat about;
    if (file < 0 || fstat(file, &about) < 0)
        return 2;
    void *memory = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    UsbcastRing ring = {0};
    if (memory == MAP_FAILED || usbcast_ring_init(&ring, memory, (uint64_t)about.st_size, strtoull(args[3], NULL, 10), strtoull(args[4], NULL, 10), -1) < 0)
        return 3;
    if (strcmp(args[1], "read") == 0) {
        read_all(&ring, (uint32_t)atoi(args[5]));
        return 0;
    }
    UsbcastRun run = {(uint32_t)strtoul(args[5], NULL, 10), (uint32_t)atoi(args[6]), atoll(args[7]), strtoull(args[8], NULL, 10), 0, 0, 0};
    int written = write_run(&ring, args + 9, count - 9, &run);
    usbcast_ring_free(&ring);
    return written == 1 ? 0 : 1;
}
