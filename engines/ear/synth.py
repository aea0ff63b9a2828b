"""Three speech synthesisers in one shape: text in, (16 kHz float32 wave, per word (start, end) in samples) out.

espeak-ng and flite run in this process through ctypes; festival is run once for a whole list (it is only a
test voice). Needs Debian's libespeak-ng1, libflite1, festival and festvox-kdlpc16k.
"""
import ctypes as C
import os
import subprocess
import tempfile
import wave

import numpy as np

RATE_HZ = 16000


class _EventId(C.Union):
    _fields_ = [("number", C.c_int), ("name", C.c_char_p), ("string", C.c_char * 8)]


class _Event(C.Structure):
    _fields_ = [("type", C.c_int), ("uid", C.c_uint), ("text_position", C.c_int), ("length", C.c_int),
                ("audio_position", C.c_int), ("sample", C.c_int), ("user", C.c_void_p), ("id", _EventId)]


_CALLBACK = C.CFUNCTYPE(C.c_int, C.POINTER(C.c_short), C.c_int, C.POINTER(_Event))


def trim_ends(wave_, spans):
    """Move each end back to the last 5 ms block above 3 % of the word's peak."""
    out = []
    for begin, end in spans:
        part = np.abs(wave_[begin:end])
        if len(part) > 160:
            blocks = part[:len(part) // 80 * 80].reshape(-1, 80).max(1)
            loud = np.nonzero(blocks > .03 * blocks.max())[0]
            end = begin + (int(loud[-1]) + 1) * 80
        out.append((int(begin), int(end)))
    return out


def _to_16k(wave_22k):
    """22050 -> 16000 Hz = 441 -> 320, by FFT over a block padded to a multiple of 441."""
    size = -(-len(wave_22k) // 441) * 441
    spectrum = np.fft.rfft(np.pad(wave_22k, (0, size - len(wave_22k))))
    out = size // 441 * 320
    return np.fft.irfft(spectrum[:out // 2 + 1], out).astype(np.float32) * (out / size)


def _tokens(text):
    tokens, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        tokens.append((at, word.strip(",.!?")))
        at += len(word)
    return tokens


class Espeak:
    """libespeak-ng, synchronous mode; word starts come from its word events."""

    def __init__(self, library="libespeak-ng.so.1"):
        self.lib = C.CDLL(library)
        assert self.lib.espeak_Initialize(2, 0, None, 0) == 22050
        self.lib.espeak_TextToPhonemes.restype = C.c_char_p
        self.chunks, self.events = [], []

        def collect(samples, count, events):
            if samples and count > 0:
                self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            i = 0
            while events[i].type != 0:
                if events[i].type == 1:
                    self.events.append((events[i].text_position - 1, events[i].audio_position))
                i += 1
            return 0

        self._keep = _CALLBACK(collect)
        self.lib.espeak_SetSynthCallback(self._keep)

    def phonemes(self, text, voice):
        """The phoneme string of a text without stress marks."""
        self.lib.espeak_SetVoiceByName(voice.encode())
        buffer = C.create_string_buffer(text.encode())
        pointer = C.c_void_p(C.addressof(buffer))
        out = self.lib.espeak_TextToPhonemes(C.byref(pointer), 1, 0) or b""
        return out.decode().replace("'", "").replace(",", "").replace("_", "").strip()

    def say(self, text, voice, rate, pitch, spread):
        """Returns None if the voice gives nothing usable."""
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((1, rate), (3, pitch), (4, spread)):
            self.lib.espeak_SetParameter(parameter, int(value), 0)
        self.chunks, self.events = [], []
        raw = text.encode() + b"\0"
        self.lib.espeak_Synth(raw, C.c_size_t(len(raw)), 0, 0, 0, 1, None, None)
        self.lib.espeak_Synchronize()
        if not self.chunks:
            return None
        wave_ = _to_16k(np.concatenate(self.chunks).astype(np.float32) / 32768)
        if len(wave_) < 2000 or np.abs(wave_).max() < .01:
            return None
        tokens = _tokens(text)
        starts = [None] * len(tokens)
        for position, ms in self.events:
            for i, (at, word) in enumerate(tokens):
                if at <= position < at + len(word) and starts[i] is None:
                    starts[i] = int(ms * RATE_HZ / 1000)
        starts[0] = starts[0] or 0
        spans = []
        for i in range(len(tokens)):          # a word without an event of its own shares its predecessor's span
            own, nxt = i, i + 1
            while own > 0 and starts[own] is None:
                own -= 1
            while nxt < len(tokens) and starts[nxt] is None:
                nxt += 1
            spans.append((starts[own], starts[nxt] if nxt < len(tokens) else len(wave_)))
        return wave_, trim_ends(wave_, spans)


class _Wave(C.Structure):
    _fields_ = [("type", C.c_char_p), ("rate", C.c_int), ("count", C.c_int), ("channels", C.c_int), ("samples", C.POINTER(C.c_short))]


class Flite:
    """libflite with four voices; word times are those of the last segment of each word."""

    VOICES = ["kal16", "awb", "rms", "slt"]

    def __init__(self):
        lib = self.lib = C.CDLL("libflite.so.1", mode=C.RTLD_GLOBAL)
        for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            C.CDLL(name, mode=C.RTLD_GLOBAL)
        lib.flite_init()
        for name in ("flite_synth_text", "utt_relation", "relation_head", "item_next"):
            getattr(lib, name).restype = C.c_void_p
        lib.flite_synth_text.argtypes = [C.c_char_p, C.c_void_p]
        lib.utt_relation.argtypes = [C.c_void_p, C.c_char_p]
        for name in ("relation_head", "item_next", "utt_wave", "delete_utterance"):
            getattr(lib, name).argtypes = [C.c_void_p]
        lib.utt_wave.restype = C.POINTER(_Wave)
        lib.item_feat_float.restype, lib.item_feat_float.argtypes = C.c_float, [C.c_void_p, C.c_char_p]
        lib.ffeature_float.restype, lib.ffeature_float.argtypes = C.c_float, [C.c_void_p, C.c_char_p]
        lib.item_feat_string.restype, lib.item_feat_string.argtypes = C.c_char_p, [C.c_void_p, C.c_char_p]
        lib.feat_set_float.argtypes = [C.c_void_p, C.c_char_p, C.c_float]
        self.voices, self._libraries = {}, []
        for name in self.VOICES:
            library = C.CDLL(f"libflite_cmu_us_{name}.so.1")
            register = getattr(library, f"register_cmu_us_{name}")
            register.restype, register.argtypes = C.c_void_p, [C.c_char_p]
            self._libraries.append(library)
            self.voices[name] = register(None)

    def _last(self, utterance):
        """End of the last segment in seconds."""
        segment, end = self.lib.relation_head(self.lib.utt_relation(utterance, b"Segment")), 0.0
        while segment:
            end = self.lib.item_feat_float(segment, b"end")
            segment = self.lib.item_next(segment)
        return end

    def say(self, text, voice, stretch, f0_hz, f0_shift):
        """stretch scales all durations; f0_hz moves kal16's mean pitch, f0_shift scales the statistical voices'."""
        lib, handle = self.lib, self.voices[voice]
        features = C.cast(handle, C.POINTER(C.c_void_p))[1]      # cst_voice: name, features, ...
        lib.feat_set_float(features, b"duration_stretch", stretch)
        lib.feat_set_float(features, b"int_f0_target_mean", f0_hz)
        lib.feat_set_float(features, b"f0_shift", f0_shift)
        utterance = lib.flite_synth_text(text.encode(), handle)
        if not utterance:
            return None
        found = lib.utt_wave(utterance).contents
        wave_ = np.ctypeslib.as_array(found.samples, shape=(found.count,)).astype(np.float32) / 32768
        assert found.rate == RATE_HZ
        total = self._last(utterance)
        ends, item = [], lib.relation_head(lib.utt_relation(utterance, b"Word"))
        while item:
            word = lib.item_feat_string(item, b"name").decode()
            begin = lib.ffeature_float(item, b"R:SylStructure.daughter1.daughter1.R:Segment.p.end")
            ends.append((word, begin, lib.ffeature_float(item, b"R:SylStructure.daughtern.daughtern.R:Segment.end")))
            item = lib.item_next(item)
        lib.delete_utterance(utterance)
        words = [w for _, w in _tokens(text)]
        if [e[0] for e in ends] != words:
            return None
        shift = len(wave_) / RATE_HZ - total if voice == "kal16" else 0.0    # the diphone voice starts inside its first pause
        spans = [(max(0, int((b + shift) * RATE_HZ)), min(len(wave_), max(1, int((e + shift) * RATE_HZ)))) for _, b, e in ends]
        return wave_, trim_ends(wave_, spans)


def festival(texts, voice="kdlpc", stretches=None):
    """Synthesises a list with festival; returns (wave, spans) or None for each."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "say.scm")
        with open(script, "w", encoding="utf-8") as out:
            out.write(f"(voice_{'ked_diphone' if voice == 'kdlpc' else voice})\n")
            for i, text in enumerate(texts):
                stretch = stretches[i] if stretches else 1.0
                out.write(f"(Parameter.set 'Duration_Stretch {stretch:.3f})\n")
                out.write(f'(set! u (utt.synth (Utterance Text "{text}")))\n(utt.save.wave u "{folder}/{i}.wav" \'riff)\n')
                out.write(f'(set! f (fopen "{folder}/{i}.txt" "w"))\n(mapcar (lambda (w) (format f "%s %f %f\\n" (item.name w) '
                          "(item.feat w 'word_start) (item.feat w 'word_end))) (utt.relation.items u 'Word))\n(fclose f)\n")
        subprocess.run(["festival", "-b", script], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for i, text in enumerate(texts):
            with wave.open(f"{folder}/{i}.wav") as source:
                assert source.getframerate() == RATE_HZ
                samples = np.frombuffer(source.readframes(source.getnframes()), np.int16).astype(np.float32) / 32768
            with open(f"{folder}/{i}.txt", encoding="utf-8") as rows:
                rows = [row.split() for row in rows]
            words = [w for _, w in _tokens(text)]
            rows = [r for r in rows if r[0] in words]
            if [r[0] for r in rows] != words:
                results.append(None)
                continue
            spans = [(int(float(b) * RATE_HZ), min(len(samples), int(float(e) * RATE_HZ))) for _, b, e in rows]
            results.append((samples, trim_ends(samples, spans)))
    return results
