#!/usr/bin/env python3
"""A USB camera for the virtual machine, as QEMU's usb-redir sees it (protocol: usbredirproto.h, version 0.7).

usage: usb_camera.py SOCKET LOG.mcap UNPLUG

Connects to QEMU's SOCKET: the camera is plugged in. A USB video class device with one bulk endpoint: MJPEG 640x480 at up to
30 Hz and YUYV 640x480 at 2 Hz, as cheap cameras offer them. Its pictures are the JPEGs in LOG.mcap, in order. While the
file UNPLUG exists the connection is closed: the camera is unplugged.
"""
import os
import re
import select
import socket
import struct
import sys
import time

HELLO, CONNECT, RESET, INTERFACES, ENDPOINTS = 0, 1, 3, 4, 5
SET_CONFIG, GET_CONFIG, CONFIG_STATUS, SET_ALT, GET_ALT, ALT_STATUS, CANCEL = 6, 7, 8, 9, 10, 11, 21
CONTROL, BULK = 100, 101
SUCCESS, CANCELLED, STALL = 0, 1, 4
# device_connect with the version, ep_info with packet sizes, ids of 64 bits (all but hello)
CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5

WIDTH, HEIGHT, ENDPOINT = 640, 480, 0x81
MJPEG, YUYV = 1, 2
JPEG_MOST = 1 << 18
INTERVALS = {MJPEG: [333333, 666666, 1000000], YUYV: [5000000]}
STRINGS = {1: "SAGE tests", 2: "JPEG camera"}


def descriptor(kind, body):
    return bytes([len(body) + 2, kind]) + body


def special(body):
    """A class-specific interface descriptor."""
    return descriptor(0x24, body)


def frame_descriptor(subtype, format_index):
    size = JPEG_MOST if format_index == MJPEG else WIDTH * HEIGHT * 2
    intervals = INTERVALS[format_index]
    rates = (size * 8 * 10_000_000 // max(intervals), size * 8 * 10_000_000 // min(intervals))
    numbers = struct.pack("<HHIIII", WIDTH, HEIGHT, *[min(r, 0xFFFFFFFF) for r in rates], size, intervals[0])
    listed = b"".join(struct.pack("<I", i) for i in intervals)
    return special(bytes([subtype, 1, 0]) + numbers + bytes([len(intervals)]) + listed)


DEVICE = descriptor(1, struct.pack("<HBBBBHHHBBBB", 0x0200, 0xEF, 2, 1, 64, 0x1209, 1, 0x0100, 1, 2, 0, 1))


def configuration():
    terminals = special(bytes([2, 1, 0x01, 0x02, 0]) + bytes([0, 0, 0, 0, 0, 0, 0, 0]) + bytes([2, 0, 0]))
    terminals += special(bytes([3, 2, 0x01, 0x01, 0, 1, 0]))
    control = special(struct.pack("<BHHIBB", 1, 0x0100, 13 + len(terminals), 6_000_000, 1, 1)) + terminals
    guid = b"YUY2" + bytes.fromhex("0000100080 0000aa00389b71")
    formats = special(bytes([6, MJPEG, 1, 1, 1, 0, 0, 0, 0])) + frame_descriptor(7, MJPEG)
    formats += special(bytes([4, YUYV, 1]) + guid + bytes([16, 1, 0, 0, 0, 0])) + frame_descriptor(5, YUYV)
    header = special(struct.pack("<BBHBBBBBBBB", 1, 2, 15 + len(formats), ENDPOINT, 0, 2, 0, 0, 0, 1, 0) + b"\0")
    body = descriptor(11, bytes([0, 2, 14, 3, 0, 0]))
    body += descriptor(4, bytes([0, 0, 0, 14, 1, 0, 0])) + control
    body += descriptor(4, bytes([1, 0, 1, 14, 2, 0, 0])) + header + formats
    body += descriptor(5, struct.pack("<BBHB", ENDPOINT, 2, 512, 0))
    return descriptor(2, struct.pack("<HBBBBB", 9 + len(body), 2, 1, 0, 0x80, 250)) + body


class Camera:
    def __init__(self, connection, pictures):
        self.connection = connection
        self.pictures = pictures
        self.received = b""
        self.header = struct.Struct("<III")
        self.shown = 0
        self.waiting = []  # bulk requests: (id, length)
        self.sending = b""
        self.due = None
        self.settings = (MJPEG, 1, INTERVALS[MJPEG][0])
        interfaces = struct.pack("<I", 2) + bytes([0, 1]).ljust(32, b"\0") + bytes([14, 14]).ljust(32, b"\0")
        interfaces += bytes([1, 2]).ljust(32, b"\0") + bytes(32)
        kinds, sizes, of = bytearray([255] * 32), [0] * 32, bytearray(32)
        kinds[0] = kinds[16] = 0
        sizes[0] = sizes[16] = 64
        kinds[17], sizes[17], of[17] = 2, 512, 1
        self.send(HELLO, 0, b"sage tests".ljust(64, b"\0") + struct.pack("<I", CAPABILITIES))
        self.send(INTERFACES, 0, interfaces)
        self.send(ENDPOINTS, 0, bytes(kinds) + bytes(32) + bytes(of) + struct.pack("<32H", *sizes))
        self.send(CONNECT, 0, struct.pack("<BBBBHHH", 2, 0xEF, 2, 1, 0x1209, 1, 0x0100))

    def send(self, kind, number, body):
        header = struct.pack("<III" if kind == HELLO else "<IIQ", kind, len(body), number)
        self.connection.sendall(header + body)

    def read(self):
        more = self.connection.recv(1 << 16)
        if not more:
            raise ConnectionError
        self.received += more
        while len(self.received) >= self.header.size:
            kind, length, number = self.header.unpack_from(self.received)
            end = self.header.size + length
            if len(self.received) < end:
                return
            body, self.received = self.received[self.header.size : end], self.received[end:]
            self.header = struct.Struct("<IIQ")
            self.take(kind, number, body)

    def take(self, kind, number, body):
        if kind == SET_CONFIG:
            self.send(CONFIG_STATUS, number, bytes([SUCCESS, body[0]]))
        elif kind == GET_CONFIG:
            self.send(CONFIG_STATUS, number, bytes([SUCCESS, 1]))
        elif kind in (SET_ALT, GET_ALT):
            self.send(ALT_STATUS, number, bytes([SUCCESS, body[0], 0]))
        elif kind == CANCEL:
            for entry in [w for w in self.waiting if w[0] == number]:
                self.waiting.remove(entry)
                self.answer(number, CANCELLED, b"")
        elif kind == RESET:
            self.due = None
        elif kind == CONTROL:
            self.control(number, body)
        elif kind == BULK:
            self.waiting.append((number, struct.unpack_from("<H", body, 2)[0]))
            self.supply()

    def answer(self, number, status, data):
        self.send(BULK, number, struct.pack("<BBHI", ENDPOINT, status, len(data), 0) + data)

    def control(self, number, body):
        endpoint, request, kind, _, value, index, length = struct.unpack_from("<BBBBHHH", body)
        data = self.reply(request, kind, value, index, body[10:])
        status = STALL if data is None else SUCCESS
        data = (data or b"")[:length] if kind & 0x80 else b""
        taken = len(data) if kind & 0x80 else length
        self.send(CONTROL, number, struct.pack("<BBBBHHH", endpoint, request, kind, status, value, index, taken) + data)

    def reply(self, request, kind, value, index, data):
        if kind == 0x80 and request == 6:
            which, number = value >> 8, value & 255
            if which == 3:
                text = struct.pack("<H", 0x0409) if number == 0 else STRINGS.get(number, "").encode("utf-16-le")
                return descriptor(3, text)
            return {1: DEVICE, 2: configuration()}.get(which)
        if kind == 0x80 and request == 0:
            return b"\0\0"
        if kind == 0x02:  # clear halt: how a stream over a bulk endpoint is ended
            self.due, self.sending = None, b""
            return b""
        if kind & 0x7F == 0x21 and index & 255 == 1 and value >> 8 in (1, 2):
            return self.probe(request, value >> 8, data)
        return None

    def probe(self, request, which, data):
        if request == 0x01:
            form, frame, interval = struct.unpack_from("<BBI", data, 2)
            form = form if form in INTERVALS else MJPEG
            nearest = min(INTERVALS[form], key=lambda known: abs(known - interval))
            self.settings = (form, 1, nearest)
            if which == 2:
                self.due, self.sending = time.monotonic(), b""
                print(f"usb camera: streams {'MJPEG' if form == MJPEG else 'YUYV'} at {1e7 / nearest:.0f} Hz", flush=True)
            return b""
        if request == 0x86:
            return b"\x03"
        if request == 0x85:
            return struct.pack("<H", 26)
        size = JPEG_MOST if self.settings[0] == MJPEG else WIDTH * HEIGHT * 2
        return struct.pack("<HBBIHHHHHII", 1, *self.settings, 0, 0, 0, 0, 0, size, size + 2)

    def show(self):
        """The next picture, when it is due. One that finds the last still waiting is dropped, as a camera would."""
        if self.due is None or time.monotonic() < self.due:
            return
        self.due = max(self.due + self.settings[2] / 1e7, time.monotonic())
        if self.sending:
            return
        if self.settings[0] == MJPEG:
            picture = self.pictures[self.shown % len(self.pictures)]
        else:
            picture = bytes([self.shown & 255, 128]) * (WIDTH * HEIGHT)
        self.sending = bytes([2, 0x82 | self.shown & 1]) + picture
        if len(self.sending) % 512 == 0:  # ends with a short packet, whatever its length
            self.sending += b"\0"
        self.shown += 1
        self.supply()

    def supply(self):
        while self.sending and self.waiting:
            number, length = self.waiting.pop(0)
            piece, self.sending = self.sending[:length], self.sending[length:]
            self.answer(number, SUCCESS, piece)


def serve(path, pictures, unplug):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        camera = Camera(connection, pictures)
        while not os.path.exists(unplug):
            if select.select([connection], [], [], 0.005)[0]:
                camera.read()
            camera.show()
    print("usb camera: unplugged", flush=True)


def main():
    path, log, unplug = sys.argv[1:]
    with open(log, "rb") as file:
        pictures = re.findall(rb"\xff\xd8\xff.{500,120000}?\xff\xd9", file.read(), re.DOTALL)
    assert len(pictures) > 10, "no pictures in the log"
    while True:
        if os.path.exists(unplug):
            time.sleep(0.1)
            continue
        try:
            serve(path, pictures, unplug)
        except FileNotFoundError:
            pass  # the machine is not there yet
        except (ConnectionError, BrokenPipeError):
            if not os.path.exists(path):
                return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
