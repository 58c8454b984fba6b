// Reads an MCAP file with @mcap/core, by its index and as a stream, and prints what it found as JSON.
import { McapIndexedReader, McapStreamReader } from "@mcap/core";
import { decompress } from "fzstd";
import { readFile } from "node:fs/promises";

const path = process.argv[2];
const decompressHandlers = { zstd: (data, size) => decompress(data, new Uint8Array(Number(size))) };

const bytes = await readFile(path);
const readable = {
  size: async () => BigInt(bytes.length),
  read: async (offset, length) => new Uint8Array(bytes.subarray(Number(offset), Number(offset + length))),
};
const indexed = await McapIndexedReader.Initialize({ readable, decompressHandlers });
const topics = {};
for await (const message of indexed.readMessages()) {
  const topic = indexed.channelsById.get(message.channelId).topic;
  topics[topic] = (topics[topic] ?? 0) + 1;
}

const stream = new McapStreamReader({ validateCrcs: true, decompressHandlers });
stream.append(new Uint8Array(bytes));
const records = {};
for (let record; (record = stream.nextRecord()); ) records[record.type] = (records[record.type] ?? 0) + 1;
console.log(JSON.stringify({ profile: indexed.header.profile, topics, records, done: stream.done() }));
