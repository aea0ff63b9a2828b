"""Trains the mind on one thread: a Qwen2-architecture model in plain torch, with the parameter names of Qwen2ForCausalLM.

Flows in: grammar.py's endless samples. Flows out: the Hugging Face folder (config.json, model.safetensors in bf16,
tokenizer.json, ...) and log.jsonl. Several utterances that share a scene are packed behind one prefix; each branch has the
positions it would have alone and a mask hides its sisters, so this is exactly single-turn training. Loss on reply tokens only.
"""
import argparse, json, os, random, time
for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"): os.environ.setdefault(v, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch, torch.nn as nn, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
import grammar as G

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
POSITIONS, ROPE, EPS = 512, 10000.0, 1e-6
# Qwen2's own pattern: one token a digit, so a distance is copied digit by digit
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def make_tokenizer(size):
    """Byte-level BPE, trained on 8,000 samples (seed 1), so that nearly every word the mind says is one token."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    texts = [m for c in G.cases(1, 8000, "train", "train") for m in [x["content"] for x in c["messages"]] + [c["want"], "system", "user", "assistant"]]
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    return t


class Layer(nn.Module):
    """Pre-norm attention with grouped key/value heads and rotary positions, then a SwiGLU block."""
    def __init__(self, c):
        super().__init__()
        d, f, self.h, self.kv = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
        self.hd = d // self.h
        a, m = nn.Module(), nn.Module()
        a.q_proj, a.k_proj, a.v_proj = nn.Linear(d, d), nn.Linear(d, self.kv * self.hd), nn.Linear(d, self.kv * self.hd)
        a.o_proj = nn.Linear(d, d, bias=False)
        m.gate_proj, m.up_proj, m.down_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)
        self.self_attn, self.mlp = a, m
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(d, eps=EPS), nn.RMSNorm(d, eps=EPS)

    def forward(self, x, cos, sin, mask, cache):
        B, T, d = x.shape
        y, a, half = self.input_layernorm(x), self.self_attn, self.hd // 2
        heads = lambda z, n: z.view(B, T, n, self.hd).transpose(1, 2)
        turn = lambda z: z * cos + torch.cat((-z[..., half:], z[..., :half]), -1) * sin
        q, k, v = turn(heads(a.q_proj(y), self.h)), turn(heads(a.k_proj(y), self.kv)), heads(a.v_proj(y), self.kv)
        if cache is not None:
            if cache: k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        n = self.h // self.kv
        o = F.scaled_dot_product_attention(q, k.repeat_interleave(n, 1), v.repeat_interleave(n, 1), attn_mask=mask)
        x = x + a.o_proj(o.transpose(1, 2).reshape(B, T, d))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


class Mind(nn.Module):
    def __init__(self, c, embed_std=0.3):
        super().__init__()
        self.c, self.model = c, nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(c["hidden_size"], eps=EPS)
        for name, p in self.named_parameters():
            if "embed" in name: nn.init.normal_(p, std=embed_std)   # with the usual 0.02 copying of digits does not start
            elif p.dim() == 2: nn.init.normal_(p, std=p.shape[1] ** -0.5 * (0.3 if "o_proj" in name or "down_proj" in name else 1))
            elif name.endswith("bias"): nn.init.zeros_(p)
        hd = c["hidden_size"] // c["num_attention_heads"]
        f = torch.outer(torch.arange(POSITIONS).float(), 1.0 / ROPE ** (torch.arange(0, hd, 2).float() / hd)).repeat(1, 2)
        self.register_buffer("cos", f.cos(), persistent=False); self.register_buffer("sin", f.sin(), persistent=False)

    def forward(self, ids, pos, mask, pick, caches=None):
        """Logits of the positions that `pick` (bool, the shape of ids) chooses."""
        x, cos, sin = self.model.embed_tokens(ids), self.cos[pos][:, None], self.sin[pos][:, None]
        for i, layer in enumerate(self.model.layers): x = layer(x, cos, sin, mask, caches and caches[i])
        return F.linear(self.model.norm(x[pick]), self.model.embed_tokens.weight)


def batches(rng, tok, scenes, asks, long):
    """Endless batches of `scenes` rows: `asks` short answers about one scene, or one long answer, which is about as long."""
    while True:
        rows = []
        for _ in range(scenes):
            s, is_long = G.scene(rng), rng.random() < long
            text = [G.prefix(s)]
            for _ in range(1 if is_long else asks):
                intent, slot, said = G.utterance(rng, among=G.LONG if is_long else G.SHORT)
                text += [G.ask(said), G.reply(s, intent, slot) + "<|im_end|>"]
            rows.append([e.ids for e in tok.encode_batch(text)])
        yield pack(rows)


def pack(rows):
    """Rows of [prefix, question, answer, question, answer, ...] as ids -> ids, positions, mask, where to predict, what to predict."""
    T = max(sum(map(len, r)) for r in rows)
    ids, pos, branch, gain = (torch.zeros(len(rows), T, dtype=torch.long) for _ in range(4))
    for b, r in enumerate(rows):
        P = o = len(r[0])
        ids[b, :P] = torch.tensor(r[0]); pos[b, :P] = torch.arange(P)
        for j, (q, a) in enumerate(zip(r[1::2], r[2::2])):
            n = len(q) + len(a)
            ids[b, o:o + n] = torch.tensor(q + a); pos[b, o:o + n] = torch.arange(P, P + n); branch[b, o:o + n] = j + 1; gain[b, o + len(q):o + n] = 1
            o += n
        branch[b, o:] = -1
    mask = ((branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)) & torch.ones(T, T, dtype=torch.bool).tril()
    return ids, pos, mask[:, None], gain.roll(-1, 1).bool(), ids[gain.bool()]


@torch.no_grad()
def generate(m, tok, prompts, limit=260, size=64):
    """Greedy replies, padded on the left, with a key/value cache."""
    out, end = [None] * len(prompts), tok.token_to_id("<|im_end|>")
    enc = sorted(((e.ids, i) for i, e in enumerate(tok.encode_batch(prompts))), key=lambda x: len(x[0]))
    for g in [enc[k:k + size] for k in range(0, len(enc), size)]:
        L = len(g[-1][0]); pad = torch.tensor([L - len(e) for e, _ in g])[:, None]
        x = torch.tensor([[0] * (L - len(e)) + e for e, _ in g])
        caches, got, done = [[] for _ in m.model.layers], [], torch.zeros(len(g), dtype=torch.bool)
        mask = (torch.arange(L)[None, None] >= pad[:, :, None]) & torch.ones(L, L, dtype=torch.bool).tril() | torch.eye(L, dtype=torch.bool)
        pos = (torch.arange(L)[None] - pad).clamp(min=0)
        for t in range(limit):
            pick = torch.zeros(x.shape, dtype=torch.bool); pick[:, -1] = True
            x = m(x, pos, mask[:, None], pick, caches).argmax(-1)[:, None]
            got.append(x); done |= x[:, 0] == end
            if done.all(): break
            pos = L + t - pad; mask = (torch.arange(L + t + 1)[None] >= pad)[:, None]
        for (_, i), r in zip(g, torch.cat(got, 1).tolist()):
            out[i] = tok.decode(r[:r.index(end)] if end in r else r, skip_special_tokens=False)
    return out


def score(m, tok, cs):
    """-> share of replies equal to the only right one, share of right action lines, exact by intent, some that failed."""
    exact = action = 0; by, bad = {}, []
    for c, got in zip(cs, generate(m, tok, [c["prompt"] for c in cs])):
        ok = got == c["want"]
        exact += ok; action += got.rpartition("\n")[2] == c["want"].rpartition("\n")[2]; by.setdefault(c["intent"], []).append(ok)
        if not ok: bad.append({"user": c["messages"][1]["content"], "want": c["want"], "got": got})
    return {"exact": round(exact / len(cs), 4), "action": round(action / len(cs), 4)}, {k: f"{sum(v)}/{len(v)}" for k, v in sorted(by.items())}, bad


def save(m, tok, out):
    """Hugging Face layout. Old readers want rope_theta, transformers 5 wants rope_parameters; both are written."""
    end, pad = tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")
    write = lambda name, d: open(os.path.join(out, name), "w").write(json.dumps(d, indent=2) + "\n")
    write("config.json", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **m.c, "hidden_act": "silu", "max_position_embeddings": POSITIONS, "max_window_layers": m.c["num_hidden_layers"],
        "rms_norm_eps": EPS, "rope_theta": ROPE, "rope_parameters": {"rope_theta": ROPE, "rope_type": "default"}, "sliding_window": POSITIONS, "use_sliding_window": False, "attention_dropout": 0.0,
        "initializer_range": 0.02, "tie_word_embeddings": True, "use_cache": True, "torch_dtype": "bfloat16", "dtype": "bfloat16", "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad})
    write("generation_config.json", {"do_sample": False, "bos_token_id": pad, "eos_token_id": [end, pad], "pad_token_id": pad, "max_new_tokens": 260})
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False, "bos_token": None, "unk_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False, "model_max_length": POSITIONS, "chat_template": TEMPLATE,
        "added_tokens_decoder": {str(tok.token_to_id(s)): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for s in SPECIAL}})
    tok.save(os.path.join(out, "tokenizer.json"))
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in m.state_dict().items()}, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", required=True)
    a.add_argument("--minutes", type=float, default=25, help="training time, scoring apart; the learning rate falls to zero at its end")
    a.add_argument("--init", help="folder of an earlier run to go on from; give another seed, and so other data")
    a.add_argument("--steps", type=int, default=0, help="a number of steps in place of a time, so that a run can be repeated")
    for name, value in dict(dim=128, layers=4, heads=4, kv=4, ff=448, vocab=1024, scenes=6, asks=5, warmup=100, seed=0, eval_n=100).items(): a.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in dict(lr=2e-3, decay=0.05, embed_std=0.3, digit=3, long=0.12, eval_every=240).items(): a.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    a = a.parse_args()
    torch.set_num_threads(1); torch.manual_seed(a.seed); rng = random.Random(1000 + a.seed)
    os.makedirs(a.out, exist_ok=True)
    tok = Tokenizer.from_file(os.path.join(a.init, "tokenizer.json")) if a.init else make_tokenizer(a.vocab)
    m = Mind(dict(vocab_size=tok.get_vocab_size(), hidden_size=a.dim, intermediate_size=a.ff, num_hidden_layers=a.layers, num_attention_heads=a.heads, num_key_value_heads=a.kv), a.embed_std)
    if a.init: m.load_state_dict(load_file(os.path.join(a.init, "model.safetensors")))
    log = open(os.path.join(a.out, "log.jsonl"), "w")
    def say(**k): print(json.dumps(k), file=log, flush=True); print(json.dumps(k), flush=True)
    say(parameters=sum(p.numel() for p in m.parameters()), args=vars(a), vocab=tok.get_vocab_size())
    is_digit = torch.zeros(tok.get_vocab_size(), dtype=torch.bool); is_digit[[tok.token_to_id(d) for d in "0123456789"]] = True
    end = tok.token_to_id("<|im_end|>")
    matrix = lambda k, p: p.dim() == 2 and "embed" not in k
    opt = torch.optim.AdamW([{"params": [p for k, p in m.named_parameters() if matrix(k, p)], "weight_decay": a.decay},
                             {"params": [p for k, p in m.named_parameters() if not matrix(k, p)], "weight_decay": 0.0}], lr=a.lr, betas=(0.9, 0.98))
    spent = last = 0.0; step = tokens = examples = 0; avg = None; t = time.time()
    for ids, pos, mask, pick, want in batches(rng, tok, a.scenes, a.asks, a.long):
        done = step / a.steps if a.steps else spent / (a.minutes * 60)
        if step % 200 == 199: save(m, tok, a.out)
        if done >= 1: break
        for g in opt.param_groups: g["lr"] = a.lr * min(1, (step + 1) / a.warmup) * min(1, (1 - done) / 0.6 + 0.005)   # flat for 40 %, then a line to zero
        logits, digit = m(ids, pos, mask, pick), is_digit[want]
        each = F.cross_entropy(logits, want, reduction="none")
        weight = 1 + (a.digit - 1) * digit          # copying a digit is a small share of the words and all of the point
        loss = (each * weight).sum() / weight.sum()
        opt.zero_grad(set_to_none=True); loss.backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0); opt.step()
        now = [each.mean().item(), avg[1] if avg and not digit.any() else (logits.argmax(-1) == want)[digit].float().mean().item()]
        avg = now if avg is None else [.97 * x + .03 * y for x, y in zip(avg, now)]
        step += 1; tokens += ids.numel(); examples += (int((ids == end).sum()) - len(ids)) // 2; spent += time.time() - t; t = time.time()
        if step % 100 == 0: say(step=step, s=round(spent), loss=round(avg[0], 5), digits_right=round(avg[1], 4), tokens_a_s=round(tokens / spent), examples=examples)
        if spent - last >= a.eval_every:
            last = spent; m.eval()
            say(step=step, s=round(spent), **{f"{u}/{w}": score(m, tok, G.cases(77, a.eval_n, u, w))[0] for _, u, w in G.HELDOUT})
            m.train(); save(m, tok, a.out); t = time.time()
    m.eval(); save(m, tok, a.out)
    say(step=step, train_s=round(spent), examples=examples, tokens=tokens, bytes=os.path.getsize(os.path.join(a.out, "model.safetensors")))


if __name__ == "__main__": main()
