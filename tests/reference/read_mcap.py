#!/usr/bin/env python3
"""Opens a recording with the reference MCAP reader and Foxglove's own schemas, and decodes what is in it.

An implementation that shares nothing with ours: `pip install mcap mcap-protobuf-support foxglove-schemas-protobuf pillow`.
Usage: read_mcap.py LOG. Prints a line per topic; exits 1 if anything does not decode as it should.
"""

import collections
import io
import json
import sys

from foxglove_schemas_protobuf import CompressedImage_pb2, Log_pb2, RawAudio_pb2, RawImage_pb2
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from PIL import Image

OFFICIAL = {
    "foxglove.CompressedImage": CompressedImage_pb2.CompressedImage,
    "foxglove.RawImage": RawImage_pb2.RawImage,
    "foxglove.RawAudio": RawAudio_pb2.RawAudio,
    "foxglove.Log": Log_pb2.Log,
}


def check(condition, text):
    if not condition:
        print(f"FAILED: {text}")
        sys.exit(1)


def stamp_ns(message):
    return message.timestamp.seconds * 1_000_000_000 + message.timestamp.nanos


def main():
    counts = collections.Counter()
    last_sound = {}
    with open(sys.argv[1], "rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        summary = reader.get_summary()
        check(summary is not None and summary.chunk_indexes, "the file has a summary and a chunk index")
        check(summary.statistics.message_count > 0, "the statistics count messages")
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        check("session" in metadata, "there is session metadata")
        json.loads(metadata["session"]["core"])
        for schema, channel, message in reader.iter_messages():
            counts[(channel.topic, schema.name, channel.message_encoding)] += 1
            if channel.message_encoding == "json":
                body = json.loads(message.data)
                check(isinstance(body, dict), f"{channel.topic}: a JSON object")
                check(json.loads(schema.data)["type"] == "object", f"{channel.topic}: a JSON schema")
                continue
            # Twice: by the descriptor in the file, and by Foxglove's published schema.
            by_file = DecoderFactory().decoder_for("protobuf", schema)(message.data)
            if schema.name not in OFFICIAL:
                check(stamp_ns(by_file) == message.publish_time, f"{channel.topic}: the stamp is publish_time")
                continue
            official = OFFICIAL[schema.name]()
            official.ParseFromString(message.data)
            check(by_file.SerializeToString() == official.SerializeToString(), f"{channel.topic}: both schemas agree")
            check(stamp_ns(official) == message.publish_time, f"{channel.topic}: the stamp is publish_time")
            if schema.name == "foxglove.CompressedImage":
                picture = Image.open(io.BytesIO(official.data))
                picture.load()
                check(official.format == "jpeg" and picture.width > 0, f"{channel.topic}: a JPEG picture")
            elif schema.name == "foxglove.RawImage":
                check(len(official.data) == official.step * official.height, f"{channel.topic}: whole rows")
                Image.frombytes("RGB", (official.width, official.height), official.data)
            elif schema.name == "foxglove.RawAudio":
                check(official.format == "pcm-s16" and official.sample_rate == 16000, f"{channel.topic}: 16 kHz")
                check(len(official.data) == 640 and official.number_of_channels == 1, f"{channel.topic}: 20 ms mono")
                before = last_sound.get(channel.topic, 0)
                check(stamp_ns(official) >= before, f"{channel.topic}: sound goes forward")
                last_sound[channel.topic] = stamp_ns(official)
        check(sum(counts.values()) == summary.statistics.message_count, "as many messages as the statistics say")
    for (topic, schema, encoding), count in sorted(counts.items()):
        print(f"{count:8} {topic:24} {schema} ({encoding})")
    print(f"{sum(counts.values())} messages decode; digest {metadata.get('end', {}).get('digest', 'none')}")


if __name__ == "__main__":
    main()
