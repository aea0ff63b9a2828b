"""The mind's grammar: scene + utterance -> the one right reply and one line of JSON.

Flows in: engines/language/language.json (what people say, how a scene is worded) and a seed. Flows out: training samples,
held-out cases, and `python grammar.py heldout.jsonl`, the test set of the Rust engine. The answer is a pure function of
(scene, intent, slot), so every check is exact. By a fixed hash, and never produced by the training sampler:

  combo   20 % of the whole texts an utterance can have (opening, core and ending together)
  core    whole phrasings of an intent, marked "~" in language.json, with every opening and ending
  joint   10 % of whole scenes, each single value in them trained
  value   15 % of the (object, direction, distance) triples and 10 % of the battery values
"""
import itertools, json, os, random, sys, zlib

LANGUAGE = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "language", "language.json")))
UNK, DIRS = LANGUAGE["unknown"], LANGUAGE["directions"]
SYSTEM = "You are Sage, a small robot."
NEAR = 8            # decimetres: an obstacle nearer than 0.8 m blocks its direction
WEAK, LOW = 10, 20  # battery %: below 10 no driving to people; below 20 no following and a warning
FAR = 99            # decimetres: the largest distance a scene can say


def held(kind, key, per_cent):
    """The fixed split: the same key always falls on the same side."""
    return zlib.crc32(f"{kind}|{key}".encode()) % 100 < per_cent


def held_value(name, place): return held("value", f"{name} {place[0]} {place[1]}", 15)
def held_battery(b): return b is not None and held("battery", b, 10)


# ------------------------------------------------------------------ scenes
def _place(rng, chance, near):
    if rng.random() >= chance: return None
    top = 11 if rng.random() < near else 59 if rng.random() < .8 else FAR
    return rng.choice(DIRS), rng.randint(1, top)


def scene(rng, split="train"):
    """A dict: person, obstacle, charger: (direction, decimetres) or None; hand: bool; battery: 0..100 or None.
    split: train | joint | value (at least one value that is never trained)."""
    while True:
        s = {"person": _place(rng, .72, .15), "obstacle": _place(rng, .75, .55), "charger": _place(rng, .65, .15), "hand": rng.random() < .4,
             "battery": None if rng.random() < .1 else rng.randint(0, 25) if rng.random() < .4 else rng.randint(0, 100)}
        s["hand"] = s["hand"] and s["person"] is not None
        strange = held_battery(s["battery"]) or any(held_value(o, s[o]) for o in ("person", "obstacle", "charger") if s[o])
        if split == ("value" if strange else "joint" if held("scene", scene_text(s), 10) else "train"): return s


def metres(dm): return f"{dm // 10}.{dm % 10}"


def scene_text(s):
    """The scene line, worded as in language.json; src/block/reason/prompt.rs says exactly the same."""
    part = [f"{o} {s[o][0]} {metres(s[o][1])} m" if s[o] else f"{o} none" for o in ("person", "obstacle", "charger")]
    part[0] += " raising hand" if s["hand"] else ""
    return "scene: " + "; ".join(part + ["battery unknown" if s["battery"] is None else f"battery {s['battery']} %"])


# ------------------------------------------------------------------ answers
def side(place): return place[0] if place[0] == "ahead" else f"on the {place[0]}"
def at(place): return f"{side(place)} at {metres(place[1])} meters"


def report(s):
    p, o, c, b = s["person"], s["obstacle"], s["charger"], s["battery"]
    return " ".join(["Here is my report.",
        f"There is a person {at(p)}, and this person " + ("is raising a hand." if s["hand"] else "is not raising a hand.") if p else "I see nobody, neither near nor far away.",
        (f"There is an obstacle {at(o)}, " + ("so I can not go that way." if o[1] < NEAR else "but it is not close to me.")) if o else "I see no obstacle, so I can go wherever you like.",
        f"The charger is {at(c)}." if c else "I do not see the charger from here.",
        "I do not know how full my battery is." if b is None else f"My battery is at {b} percent, and that is " + ("low, so I should charge soon." if b < LOW else "enough for now."),
        "That is all that I can tell you."])


def story(s):
    """80 to 140 words; which story it is depends on whom and what the scene has."""
    p, o, c, b = s["person"], s["obstacle"], s["charger"], s["battery"]
    end = "That is the end of my story."
    if p and o:
        return " ".join(["Once there was a small robot that lived in a quiet house.",
            "One morning it did not know how full its battery was, and it looked around." if b is None else f"One morning its battery was at {b} percent, and it looked around.",
            f"There was a person {at(p)}, with " + ("one hand raised high." if s["hand"] else "both hands down."),
            f"There was also an obstacle {at(o)}, and to the robot it looked as tall as a mountain.",
            "The robot was not afraid. It waited, it counted to three, and it found a way around.",
            "The person laughed and said that a patient robot is worth more than a fast one. From that day on the two were friends.",
            f"And when something stood in the way again, the robot remembered the mountain that was {metres(o[1])} meters away.", end])
    if p:
        return " ".join(["This is the story of a robot that wanted to say hello.",
            "It did not know how full its battery was, but there was no obstacle anywhere." if b is None else f"It had a battery at {b} percent, and there was no obstacle anywhere.",
            f"It looked to every side, and it found a person {at(p)}.",
            ("The person raised a hand" if s["hand"] else "The person did not move") + ", and the robot thought about what to say.",
            "It thought for so long that the sun went down behind the window.",
            f"Only the charger {at(c)} gave a little light." if c else "No charger gave any light, and the room grew dark.",
            "At last the robot rolled closer and said one word, and the word was hello. The person answered with the same word.",
            "It was a short talk, but the robot remembered it every day.", end])
    return " ".join(["Far away from everyone, a small robot guarded an empty room.",
        "Nobody was there to talk to, and it did not know how full its battery was." if b is None else f"Nobody was there to talk to, and its battery was at {b} percent.",
        f"There was an obstacle {at(o)}, and the robot called it the old tower." if o else "There was no obstacle at all, so the robot could roll wherever it liked.",
        f"There was a charger {at(c)}, and its green lamp was the evening star." if c else "There was no charger in sight, so the robot saved its power and moved slowly.",
        "Every night it turned around once and listened.",
        "One night it heard steps at the door, and a voice said good morning, although it was dark.",
        "The robot was so happy that it forgot every word it knew, except one, and that word was hello.", end])


def answer(s, intent, slot=None):
    """-> (what is said, the action as a dict)."""
    p, o, c, b = s["person"], s["obstacle"], s["charger"], s["battery"]
    none = {"action": "none"}
    blocked = lambda d: o is not None and o[0] == d and o[1] < NEAR
    refuse = lambda verb: (f"I can not {verb}, there is an obstacle {at(o)}.", none)
    hand = ", raising a hand" if s["hand"] else ""
    if intent == "stop": return "I am standing still.", {"action": "stop"}   # never says the word that would stop it
    if intent == "see":
        seen = ([f"I see a person {at(p)}{hand}."] if p else []) + ([f"There is an obstacle {at(o)}."] if o else []) + ([f"The charger is {at(c)}."] if c else [])
        return " ".join(seen) or "I see nothing.", none
    if intent == "who": return (f"There is a person {at(p)}{hand}." if p else "I see nobody."), none
    if intent == "hand":
        if not p: return "No, I see nobody.", none
        return (f"Yes, the person {side(p)} is raising a hand." if s["hand"] else f"No, the person {side(p)} is not raising a hand."), none
    if intent == "where": return (f"The {slot} is {at(s[slot])}." if s[slot] else f"I see no {slot}."), none
    if intent == "battery":
        if b is None: return "I do not know how full my battery is.", none
        return f"My battery is at {b} percent." + (" I should charge soon." if b < LOW else ""), none
    if intent == "clear":
        if blocked("ahead"): return f"The way ahead is blocked by an obstacle at {metres(o[1])} meters.", none
        if o and o[0] == "ahead": return f"The way ahead is clear up to an obstacle at {metres(o[1])} meters.", none
        return "The way ahead is clear.", none
    if intent in ("come", "follow"):
        if not p: return "I do not see you. I will look around.", {"action": "search", "target": "person"}
        if blocked(p[0]): return refuse(intent)
        if b is not None and b < (WEAK if intent == "come" else LOW): return f"I can not {intent}, my battery is at {b} percent.", none
        if intent == "come": return f"I am coming to you, {side(p)}.", {"action": "go", "target": "person", "direction": p[0]}
        return f"I follow you, {side(p)}.", {"action": "follow", "target": "person"}
    if intent == "charge":
        if not c: return "I see no charger. I will look around.", {"action": "search", "target": "charger"}
        if blocked(c[0]): return refuse("go to the charger")
        return f"I go to the charger {at(c)}.", {"action": "go", "target": "charger", "direction": c[0]}
    if intent == "turn": return f"I turn {slot}.", {"action": "turn", "direction": slot}
    if intent == "forward":
        return refuse("move forward") if blocked("ahead") else ("I move forward.", {"action": "move", "direction": "forward"})
    if intent == "back": return "I move back.", {"action": "move", "direction": "back"}
    if intent == "hello": return (f"Hello! I see you {side(p)}." if p else "Hello! I do not see you."), none
    if intent == "name": return "My name is Sage. I am a small robot.", none
    if intent == "thanks": return "You are welcome.", none
    if intent == "story": return story(s), none
    if intent == "report": return report(s), none
    if intent == "help": return "I can tell you what I see, come to you, follow you, turn, move, and go to the charger.", none
    return "Sorry, I do not understand.", none


def reply(s, intent, slot=None):
    text, action = answer(s, intent, slot)
    return text + "\n" + json.dumps(action, separators=(",", ":"))


# ------------------------------------------------------------------ utterances
# What the robot has no answer for, in words the ear can report; "~" held out. None contains a whole core of an intent.
OTHER = ["c", ["where is the door", "where is the wall", "how far is the wall", "how far is the way", "find the door", "go to the wall", "do you see the door", "do you see the wall",
               "can you see the door", "is the door far", "is the robot slow", "how much is three", "where is my <unk>", "where is the <unk>", "how far is the <unk>", "do you see the <unk>",
               "what is <unk>", "what is your <unk>", "what is one <unk>", "tell me the <unk>", "tell me <unk> <unk>", "give me the <unk>", "give me one <unk>",
               "go to the <unk>", "find the <unk>", "find my <unk>", "can you <unk>", "can you <unk> the <unk>", "do you <unk> me", "do you <unk> the <unk>", "how <unk> are you", "where do you <unk>",
               "<unk> the door", "<unk> the <unk>", "<unk> me", "<unk> me the <unk>", "what do you <unk>", "yes", "no", "danger", "continue", "again", "<unk>", "<unk> <unk>", "<unk> <unk> <unk>", "is the <unk> <unk>",
               "~how far is the door", "~find the wall", "~go to the door", "~can you see the wall", "~give me your <unk>", "~tell me your <unk>", "~what is the <unk>", "~where is your <unk>", "~can you <unk> me"]]
INTENTS = dict(LANGUAGE["intents"], other=OTHER)
LONG = ["story", "report"]
SHORT = [i for i in INTENTS if i not in LONG]
DECIDE = ["come", "follow", "charge", "forward", "clear"]  # what is right depends on two facts of the scene: asked four times as often in training
LOOK = ["see", "who", "where", "hello", "name", "battery"]  # twice as often
FUNCTION = ["the", "to", "is", "do", "please", "your", "my", "now", "there", "here", "robot", "me"]   # words the ear loses, doubles or mistakes
MISTAKE = {"the": ["to", UNK], "to": ["the", UNK], "is": ["now", UNK], "now": ["no", "low"], "your": ["the", UNK], "my": ["the", UNK], "please": [UNK], "robot": [UNK], "here": [UNK]}
# One word that settles an intent alone: any other word may then be unheard.
KEY = {"battery": "battery", "story": "story", "report": "report", "name": "name", "forward": "forward", "hand": "hand", "follow": "follow", "thanks": "thanks", "hello": "hello", "clear": "clear"}
MANNER = ["again", "slow", "fast", "here", "there"]   # what an order may end with

SALAD = [w for w in LANGUAGE["words"] if w not in set(KEY.values()) | set("stop halt wait stay left right around ahead forward back help home raised story".split())]


def _join(*parts): return " ".join(x for x in parts if x)


def slots(intent, core):
    if "{}" not in core: return [None]
    # "look around" is the intent "see"; nobody turns "to the around"
    return [k for k in LANGUAGE["slots"][intent] if not (k == "around" and ("to the" in core or core == "look {}"))]


def _texts():
    """Every text the grammar can say -> (intent, slot, split), split one of train, combo, core."""
    all_ = {}
    for want_held in (True, False):     # a text that a held-out core can make stays held out, whoever else can make it
        for intent, (kind, cores) in INTENTS.items():
            for core in cores:
                if core.startswith("~") != want_held: continue
                for a, z in itertools.product(dict.fromkeys(LANGUAGE["open"][kind]), dict.fromkeys(LANGUAGE["end"][kind])):
                    shape = _join(a, core.lstrip("~"), z)
                    split = "core" if want_held else "combo" if held("text", shape, 20) else "train"
                    for slot in slots(intent, core.lstrip("~")):
                        old = all_.setdefault(shape.format(slot), (intent, slot, split))
                        assert old[:2] == (intent, slot), ("two meanings", shape, old, intent, slot)
    return all_


TEXTS = _texts()
CORE_WORDS = [c.lstrip("~").format(k).split() for i, (_, cs) in LANGUAGE["intents"].items() for c in cs for k in slots(i, c.lstrip("~"))]


def holds_core(words):
    """True if the words hold a whole phrasing of some intent."""
    return any(words[i:i + len(c)] == c for c in CORE_WORDS for i in range(len(words) - len(c) + 1))


def disturb(rng, intent, slot, text):
    """The same utterance as a poor ear reports it, or None where that would mean something else or leak a held-out text."""
    w = text.split()
    key = slot if intent == "turn" else KEY.get(intent)
    if key in w and rng.random() < .4:                  # a word beside the one that settles it is not heard
        i = rng.choice([i for i, x in enumerate(w) if x != key] or [None])
        if i is None: return None
        w[i:i + 1] = [UNK] if rng.random() < .6 else []
    elif rng.random() < .3 and ("your" in w or "are you" in text):     # of the robot in the third person
        w = text.replace("are you", "is the robot").replace("your", "the robot").split()
    elif intent in ("turn", "forward", "back", "come", "follow", "report", "story", "thanks") and rng.random() < .3:
        w.append(rng.choice(MANNER))
    elif rng.random() < .25:                            # noise before or after is reported as an unknown word
        w = [UNK] + w if rng.random() < .5 else w + [UNK]
    else:
        at_ = [i for i, x in enumerate(w) if x in FUNCTION and w[max(i - 1, 0)] != "you"]   # "can you please go ahead" orders, "can you go ahead" asks
        if not at_: return None
        i = rng.choice(at_); r = rng.random()
        w[i:i + 1] = [] if r < .45 else [w[i]] * 2 if r < .65 else [rng.choice(MISTAKE.get(w[i], [w[i]]))]
    t = " ".join(w)
    known = TEXTS.get(t)
    return t if w and (known is None or known == (intent, slot, "train")) else None


def salad(rng):
    while True:
        w = [UNK if rng.random() < .45 else rng.choice(SALAD) for _ in range(rng.randint(1, 6))]
        if not holds_core(w) and " ".join(w) not in TEXTS: return " ".join(w)


def utterance(rng, split="train", noise=.25, among=None):
    """split: train (disturbed with that chance) | combo | core -> (intent, slot, text), the intent one of `among` if given."""
    names = list(INTENTS) + (DECIDE * 3 + LOOK + ["other"] if split == "train" else [])
    names = [i for i in names if among is None or i in among]
    while True:
        intent = rng.choice(names)
        kind, cores = INTENTS[intent]
        core = rng.choice([c for c in cores if c.startswith("~") == (split == "core")]).lstrip("~")
        slot = rng.choice(slots(intent, core))
        text = _join(rng.choice(LANGUAGE["open"][kind]), core, rng.choice(LANGUAGE["end"][kind])).format(slot)
        if intent == "other" and split == "train" and rng.random() < .4: return intent, None, salad(rng)
        if TEXTS[text][2] != split: continue
        if split == "train" and intent != "other" and rng.random() < noise:
            text = disturb(rng, intent, slot, text) or text
        return intent, slot, text


# ------------------------------------------------------------------ ChatML
def messages(s, text): return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": scene_text(s) + "\n" + text}]
def prefix(s): return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{scene_text(s)}\n"
def ask(text): return f"{text}<|im_end|>\n<|im_start|>assistant\n"


def cases(seed, n, split, scenes):
    """n cases with utterances of `split` in scenes of `scenes`, undisturbed."""
    rng, out = random.Random(seed), []
    for _ in range(n):
        s = scene(rng, scenes); i, k, u = utterance(rng, split, noise=0)
        out.append({"split": f"{split}/{scenes}", "intent": i, "messages": messages(s, u), "prompt": prefix(s) + ask(u), "want": reply(s, i, k)})
    return out


HELDOUT = [(250, "combo", "joint"), (200, "core", "joint"), (150, "combo", "value")]
HELDOUT_SEED = 20_261_126   # used for heldout.jsonl and nothing else


def main():
    with open(sys.argv[1], "w") as f:
        for i, (n, split, scenes) in enumerate(HELDOUT):
            for c in cases(HELDOUT_SEED + i, n, split, scenes):
                f.write(json.dumps({k: c[k] for k in ("split", "messages", "want")}, separators=(",", ":")) + "\n")


if __name__ == "__main__": main()
