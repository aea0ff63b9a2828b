#!/usr/bin/env python3
"""Writes logs as other people's programs write them, for `sage replay FILE --simulate`.

`pip install mcap mcap-ros2-support mcap-protobuf-support foxglove-schemas-protobuf pillow`. Usage: write_foreign.py DIR.
ros2.mcap: sensor_msgs/Image in CDR by the reference ROS 2 writer, zstd chunks; foxglove.mcap: protobuf pictures and 44.1 kHz
stereo sound by the reference protobuf writer, lz4 chunks.
"""

import io
import math
import os
import struct
import sys

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.RawAudio_pb2 import RawAudio
from mcap.writer import CompressionType
from mcap_protobuf.writer import Writer as ProtobufWriter
from mcap_ros2.writer import Writer as Ros2Writer
from PIL import Image, ImageDraw

IMAGE = """std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
BEGIN = 1_750_000_000_000_000_000
FRAMES = 50


def picture(i):
    image = Image.new("RGB", (320, 240), (90, 110, 130))
    ImageDraw.Draw(image).rectangle([20 + 4 * i, 60, 80 + 4 * i, 200], fill=(200, 40, 30))
    return image


def ros2(path):
    with open(path, "wb") as file:
        writer = Ros2Writer(file, compression=CompressionType.ZSTD)
        schema = writer.register_msgdef("sensor_msgs/msg/Image", IMAGE)
        for i in range(FRAMES):
            at = BEGIN + i * 100_000_000
            image = picture(i)
            message = {
                "header": {"stamp": {"sec": at // 10**9, "nanosec": at % 10**9}, "frame_id": "camera_link"},
                "height": image.height,
                "width": image.width,
                "encoding": "rgb8",
                "is_bigendian": 0,
                "step": image.width * 3,
                "data": list(image.tobytes()),
            }
            writer.write_message("/camera/image_raw", schema, message, at + 12_000_000, at, i)
        writer.finish()


def foxglove(path):
    with open(path, "wb") as file:
        writer = ProtobufWriter(file, compression=CompressionType.LZ4)
        for i in range(FRAMES):
            at = BEGIN + i * 100_000_000
            jpeg = io.BytesIO()
            picture(i).save(jpeg, "JPEG", quality=80)
            image = CompressedImage(frame_id="cam", data=jpeg.getvalue(), format="jpeg")
            image.timestamp.FromNanoseconds(at)
            writer.write_message("/front/compressed", image, at, at)
            sound = b"".join(
                struct.pack("<hh", *(2 * [int(8000 * math.sin(0.06 * (i * 4410 + n)))])) for n in range(4410)
            )
            audio = RawAudio(data=sound, format="pcm-s16", sample_rate=44100, number_of_channels=2)
            audio.timestamp.FromNanoseconds(at)
            writer.write_message("/audio", audio, at, at)
        writer.finish()


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    ros2(os.path.join(sys.argv[1], "ros2.mcap"))
    foxglove(os.path.join(sys.argv[1], "foxglove.mcap"))
