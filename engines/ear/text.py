"""What is said: sentences of the shared grammar, random vocabulary words, and speech of unknown words.

In: engines/language/language.json (words, homophones, intents, openings, endings) and a random.Random.
Out: text lines, and the symbol of each word. Held-out cores ("~") and the lists marked VAL and TEST never
reach training; words that sound like a vocabulary word are kept out of every list.
"""
import json
import os

LANGUAGE = os.path.join(os.path.dirname(__file__), "..", "language", "language.json")
with open(LANGUAGE, encoding="utf-8") as _file:
    LANG = json.load(_file)
WORDS = LANG["words"]
HOMOPHONES = LANG["homophones"]
UNKNOWN = LANG["unknown"]
SYMBOLS = ["<blank>"] + WORDS + [UNKNOWN]
KNOWN = set(WORDS) | set(HOMOPHONES)


def symbol(word):
    """The output symbol of one written word."""
    word = word.strip(",.!?")
    word = HOMOPHONES.get(word, word)
    return word if word in KNOWN else UNKNOWN


# Words near "stop" by sound. Three disjoint lists: learnt from, used to choose the stop rule, and judged by.
HOSTILE_TRAIN = """stopped stopping stops stump scope swap prop top shop step spot stock stuff store start star shot shock hop
topped shopped scotch staff stamp steep stack stuck stalk sock sop dot tock stout stab cop copy popped stoic strap troop
snap spa sport stall stand stone stopper unstoppable top-up tap tip trap trot storm stood slap soap""".split()
HOSTILE_VAL = """stooped mop swamp strip sharp stoke scoop stockpile crop stub drop stopover squat plop setup""".split()
HOSTILE_TEST = """stomp strop slop stoop flop chop pop swoop stopwatch nonstop stoppage scott sloppy topic stopgap atop
shopping scoped stumped swapped propped stocked cropped stepped steps stupid spotted stropped""".split()
HOSTILE_PAIRS = {
    "train": ["first opera", "just operate", "must open", "its top", "last opening", "this top", "most opt", "the shop", "test opposite"],
    "val": ["cost option", "east ocean", "this drop"],
    "test": ["best option", "west operator", "gets up", "less top", "past opponents", "this shop", "fast options"],
}

COMMON_TRAIN = """a and it was for on with as at be this have from or had by but some we out other were all when use an each
which she time if will about many then them would like so these her long make thing him has more day could did number sound
most people over water than call first may side been any new work part take get place made live after little only round man
year came show every our under snow toe throw glow grow gold goat summer hum calm light night might bright kite ride white
fight lift loft laugh leaf leg let lead stair hair care bear chair chart jar large seed seat bee tea key tree free tool blue
room moon food foot book took cook hook lock luck window table kitchen music radio garden yesterday tomorrow evening weather
coffee sugar bottle paper pencil letter mother father sister brother children teacher doctor engine market money country river
mountain winter orange yellow purple because between another without against during before question problem system program
computer language machine picture going coming looking turned moved found followed waiting charged reported named helped
telling given second person's doors walls hands words think into onto upon should where's what's there's
also just even such very well still between never always often maybe perhaps today people's world life
house school state family student group company president power area body friend minute idea air line death
remember consider appear buy serve die send build cut reach kill remain suggest raise pass sell require decide pull
box boy bad big black bring cold dark deep dry early easy fall fine fish fly form game hot ice job kind lady land last late
learn least leave less mind miss month mouth music near next old once page plan play point poor real red rest road rock rule
run safe same save set ship short sing sit size sleep small smile soft son song soon sun sure talk ten thank thick
thin third tired touch town train trip true try type uncle use voice walk want warm wash watch week west wide wild win wind
wish wood worry young zero four five six seven eight nine ten hundred""".split()
COMMON_TEST = """gun gone glue coat cup comb bird lost laughed rice rate ford foreign bag pack bat term tone ground doing sad pear
purse parson chapel charming change battle butter hollow knee meat meal went rabbit shoe wire obvious article head hat yet yard
none past flow self held ranger stranger saying yore mine tomb fear bull law not bow lease freeze mood hole stage war blind inn
off bicycle hospital elephant umbrella telephone chocolate sandwich holiday banana potato tomato butterfly dinosaur newspaper
supper bored hello-ish whenever somebody nobody harbour lefty righteous foggy hands-on ready steady going-on widow follower""".split()
COMMON_VAL = """apple candle bridge castle dragon feather giant hammer island jacket kettle lantern magnet needle oven pocket
quarter ribbon saddle tunnel urban velvet wagon zebra about-face comic dollar fellow gentle hidden""".split()

ONSETS = "b d f g h j k l m n p r s t v w z sh ch th bl br dr fl fr gl gr pl pr sk sl sm sn sp st st st str sw tr tw".split() + [""]
NUCLEI = "a e i o o u ee oo ai oa ow ar er or".split()
CODAS = "b d f g k l m n p p s t z sh ch ck ll nd nt ng lk mp sk st pt ps op ock".split() + ["", ""]


def pseudo(rng, sounds_known):
    """A made-up word; sounds_known(word) says whether it sounds like a vocabulary word and must not be used."""
    while True:
        count = rng.choice([1, 1, 1, 2, 2, 3])
        word = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) + (rng.choice(CODAS) if rng.random() < .75 else "") for _ in range(count))
        if len(word) > 2 and "stop" not in word and word not in KNOWN and not sounds_known(word):
            return word


def sentence(rng, held_out=False, intent=None):
    """One sentence of the grammar with an opening and an ending; held_out also admits the '~' cores."""
    names = list(LANG["intents"])
    name = intent or rng.choice(names + ["stop", "stop"])
    kind, cores = LANG["intents"][name]
    core = rng.choice([c for c in cores if held_out or not c.startswith("~")]).lstrip("~")
    if "{}" in core:
        core = core.format(rng.choice(LANG["slots"][name]))
    opening, ending = rng.choice(LANG["open"][kind]), rng.choice(LANG["end"][kind])
    text = opening + (("," if rng.random() < .4 else "") + " " if opening else "") + core
    if ending:
        text += ("," if rng.random() < .3 else "") + " " + ending
    return text + rng.choice([".", ".", "!", ""] if kind != "q" else ["?", "?", "."])


def scramble(rng, count=None):
    """Random vocabulary words, so that the net learns the sounds and not only the grammar."""
    words = [rng.choice(WORDS) for _ in range(count or rng.randint(1, 6))]
    return " ".join(w + ("," if rng.random() < .15 else "") for w in words) + rng.choice([".", "?", ""])


def filler(rng, split, sounds_known, hostile=.4, known=.3):
    """Speech of mostly unknown words, dense with neighbours of "stop"; the word "stop" itself never occurs."""
    near = {"train": HOSTILE_TRAIN, "val": HOSTILE_VAL, "test": HOSTILE_TEST}[split]
    common = {"train": COMMON_TRAIN, "val": COMMON_VAL, "test": COMMON_TEST}[split]
    others = [w for w in WORDS if w != "stop"]
    out = []
    for _ in range(rng.randint(1, 7)):
        pick = rng.random()
        if pick < known:
            word = rng.choice(others)
        elif pick < known + hostile:
            word = rng.choice(HOSTILE_PAIRS[split]) if rng.random() < .15 else rng.choice(near)
        elif rng.random() < (.5 if split == "train" else .2):
            word = pseudo(rng, sounds_known)
        else:
            word = rng.choice(common)
        out.append(word.replace("-", " "))
    return " ".join(out) + rng.choice([".", "?", "", "!"])


ACCENTS = ["en", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"]
ACCENTS_HELD = ["en-gb-x-rp"]
VARIANTS_VAL = "m3 f5 klatt4 john grandpa Mario belinda".split()
# whole families are held out (steph*, iven*, gene*, anika*, Andy*) so that no near twin is trained
VARIANTS_TEST = """m7 f2 Annie Andy AnxiousAndy adam david Gene Gene2 iven iven2 iven3 iven4 steph steph2 steph3
anika anikaRobot Michael michel""".split()
VARIANTS_TRAIN = """- - m1 m2 m4 m5 m6 m8 f1 f3 f4 klatt klatt2 klatt3 klatt5 klatt6 croak Andrea Alex Alicia antonio aunty benjamin
boris caleb Denis Diogo ed edward edward2 gustave Henrique Hugo Jacky kaukovalta Lee linda marcelo Marco max miguel Mike Nguyen
norbert pablo paul pedro quincy RicishayMax RicishayMax2 RicishayMax3 rob robert robosoft robosoft2 robosoft4 robosoft5
robosoft6 robosoft8 sandro shelby Storm travis Tweaky UniRobot victor zac grandma announcer""".split()
