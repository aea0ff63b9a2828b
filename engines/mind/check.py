"""Checks the saved mind: transformers against train.py's own code, and accuracy on held-out cases.

Flows in: a folder written by train.py. Flows out: figures on standard output, exit 1 if a bar is missed or transformers says
something else; with --reference FILE also the token ids and first logits that the Rust decoder must reproduce.
`python check.py` checks the folder it lies in on heldout.jsonl; `--n 2000` adds fresh cases of another seed.
"""
import argparse, json, os, sys, time
for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(v, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch
from tokenizers import Tokenizer
import grammar as G, train as T

HERE = os.path.dirname(os.path.abspath(__file__))
BARS = {"combo/joint": .97, "core/joint": .97, "combo/value": .95}
FRESH_SEED = 515_151


def load(folder):
    """The folder's model in transformers (f32), the same weights in train.py's code, the tokenizer of each."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    m = T.Mind({k: getattr(hf.config, k) for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")}).eval()
    missing, extra = m.load_state_dict({k: v for k, v in hf.state_dict().items() if k != "lm_head.weight"}, strict=False)
    assert not missing and not extra, (missing, extra)
    return hf, AutoTokenizer.from_pretrained(folder), m, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def greedy(hf, ids):
    with torch.no_grad(): return hf.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=260, do_sample=False)[0, len(ids):].tolist()


def prompt_ids(ht, c):
    """Ids by transformers' chat template; they must be those of grammar.py's own text."""
    text = ht.apply_chat_template(c["messages"], tokenize=False, add_generation_prompt=True)
    return text, ht(text, add_special_tokens=False)["input_ids"]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", nargs="?", default=HERE); a.add_argument("--n", type=int, default=0, help="fresh cases a split"); a.add_argument("--reference")
    a = a.parse_args()
    torch.set_num_threads(1)
    hf, ht, m, tok = load(a.folder)
    good = True

    some = [c for mode in ("combo", "core") for c in G.cases(99, 16, mode, "joint")] + [c for c in G.cases(98, 300, "combo", "value") if c["intent"] in ("story", "report")][:8]
    own = T.generate(m, tok, [c["prompt"] for c in some], size=1)
    t, n, same = time.time(), 0, 0
    for c, o in zip(some, own):
        text, ids = prompt_ids(ht, c)
        assert text == c["prompt"], (text, c["prompt"])
        assert ids == tok.encode(c["prompt"]).ids
        scene, rest = c["prompt"].split("%\n" if "%\n" in c["prompt"] else "unknown\n", 1)     # training tokenizes the scene apart
        cut = c["prompt"][:len(c["prompt"]) - len(rest)]
        assert tok.encode(cut).ids + tok.encode(rest).ids == ids
        r = greedy(hf, ids); n += len(r)
        same += ht.decode(r, skip_special_tokens=True) == o
    print(f"transformers (f32) says the same as train.py: {same} of {len(some)}; {n / (time.time() - t):.0f} tokens/s in transformers")
    good &= same == len(some)

    path = os.path.join(HERE, "heldout.jsonl")
    sets = {}
    if os.path.exists(path):
        for line in open(path):
            c = json.loads(line)
            c.update(prompt=prompt_ids(ht, c)[0], intent=G.TEXTS[c["messages"][1]["content"].split("\n", 1)[1]][0])
            sets.setdefault("heldout.jsonl " + c["split"], []).append(c)
    if a.n: sets.update({f"fresh {u}/{w}": G.cases(FRESH_SEED, a.n, u, w) for _, u, w in G.HELDOUT})
    for name, cs in sets.items():
        r, by, bad = T.score(m, tok, cs)
        bar = BARS[name.split()[-1]]
        good &= r["exact"] >= bar
        print(f"{name}: n {len(cs)}, exact {r['exact']:.4f} (bar {bar}), action line {r['action']:.4f}\n   not all exact: { {k: v for k, v in by.items() if len(set(v.split('/'))) > 1} }")
        for b in bad[:12]: print("     ", json.dumps(b))

    if a.reference:
        ref, wanted = [], ("stop", "come", "follow", "charge", "where", "battery", "see", "clear", "story", "report")
        pool = G.cases(97, 400, "combo", "joint")
        for intent in wanted:
            c = next(c for c in pool if c["intent"] == intent and c["want"] in T.generate(m, tok, [c["prompt"]]))
            text, ids = prompt_ids(ht, c)
            with torch.no_grad(): top = hf(torch.tensor([ids])).logits[0, -1].topk(8)
            r = greedy(hf, ids)
            ref.append({"messages": c["messages"], "prompt_ids": ids, "reply_ids": r, "reply": ht.decode(r, skip_special_tokens=True),
                        "first_top8_ids": top.indices.tolist(), "first_top8_logits": [round(x, 4) for x in top.values.tolist()]})
        with open(a.reference, "w") as f:
            f.write('{"about": "Greedy replies and the logits of the first step by transformers Qwen2ForCausalLM, float32 arithmetic on the bf16 weights. reply_ids end with <|im_end|>.",\n "cases": [\n')
            f.write(",\n".join(json.dumps(x, separators=(",", ":")) for x in ref) + "\n]}\n")
    sys.exit(not good)


if __name__ == "__main__": main()
