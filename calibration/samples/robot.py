"""Writes robot.jsonl: what is said to the robot in scenes of the mind's training grammar, and the right answers.

python calibration/samples/robot.py > calibration/samples/robot.jsonl
"""
import json, pathlib, random, sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "engines/mind"))
import grammar

SEED, COUNT = 20_261_127, 128
rng = random.Random(SEED)
for _ in range(COUNT):
    scene = grammar.scene(rng)
    intent, slot, said = grammar.utterance(rng)
    answer = {"role": "assistant", "content": grammar.reply(scene, intent, slot)}
    print(json.dumps({"messages": grammar.messages(scene, said) + [answer]}, separators=(",", ":")))
