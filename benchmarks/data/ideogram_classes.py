"""Which ideograms are kept, and under which of 31 class names.

Rules:
    1. A class is a union of Unicode subcategories (as `emoji.json` spells them), plus single ideograms that
       Unicode files elsewhere, less single ideograms that picture something else.
    2. An ideogram belongs to at most one class. A subcategory named by no class is left out: flags, families,
       skin tones, letters and digits, signs, geometric shapes and other marks that are not pictures.
    3. A gendered variant of a person is left out (`is_gendered`): its neutral form stays.
    4. `NEAR_DUPLICATES` are left out: in at least one domain they are another ideogram again, in other colours or
       to the pixel, so that one drawing could stand in train and in test. In every pair that is kept, the
       luminance differs by 3 % of full scale or more (root mean square over 32 x 32 pixels), in every domain.
    5. `NOT_FREE` are left out: the Fluent package carries them, but Microsoft, who drew them, withholds them from
       the free licence because of trade marks.
"""

from dataclasses import dataclass

ZERO_WIDTH_JOINER = "200d"
MAN, WOMAN = "1f468", "1f469"
MALE_SIGN, FEMALE_SIGN = "2642", "2640"


@dataclass(frozen=True, slots=True)
class IdeogramClass:
    """One class: Unicode `subcategories`, plus the short names `also`, less the short names `but_not`."""

    name: str
    subcategories: tuple[str, ...]
    also: tuple[str, ...] = ()
    but_not: tuple[str, ...] = ()


CLASSES: tuple[IdeogramClass, ...] = (
    IdeogramClass("mammal", ("animal-mammal",), but_not=("pig_nose", "feet")),
    IdeogramClass("bird", ("animal-bird",), but_not=("feather", "wing")),
    IdeogramClass("bug", ("animal-bug",), but_not=("spider_web", "microbe")),
    IdeogramClass("reptile-or-sea-animal", ("animal-amphibian", "animal-reptile", "animal-marine")),
    IdeogramClass(
        "plant", ("plant-flower", "plant-other"), but_not=("rosette", "empty_nest", "nest_with_eggs")
    ),
    IdeogramClass("fruit", ("food-fruit",)),
    IdeogramClass("vegetable", ("food-vegetable",)),
    IdeogramClass("meal", ("food-prepared", "food-asian"), but_not=("salt",)),
    IdeogramClass("sweet", ("food-sweet",)),
    IdeogramClass("drink", ("drink",), but_not=("ice_cube",)),
    IdeogramClass(
        "smiling-face", ("face-smiling", "face-affection", "face-tongue", "face-hat", "face-glasses")
    ),
    IdeogramClass(
        "troubled-face",
        ("face-neutral-skeptical", "face-sleepy", "face-unwell", "face-concerned", "face-negative"),
        but_not=("skull", "skull_and_crossbones"),
    ),
    IdeogramClass("heart", ("heart",), also=("anatomical_heart",)),
    IdeogramClass(
        "hand",
        (
            "hand-fingers-open",
            "hand-fingers-partial",
            "hand-single-finger",
            "hand-fingers-closed",
            "hands",
            "hand-prop",
        ),
        but_not=("selfie",),
    ),
    IdeogramClass("person", ("person", "person-gesture", "person-role", "person-fantasy")),
    IdeogramClass("activity", ("person-activity", "person-sport", "person-resting")),
    IdeogramClass(
        "building",
        ("place-building", "place-religious"),
        but_not=("building_construction", "bricks", "rock", "wood", "statue_of_liberty"),
    ),
    IdeogramClass(
        "landscape",
        ("place-geographic", "place-other"),
        but_not=("hotsprings", "carousel_horse", "playground_slide", "barber"),
    ),
    IdeogramClass(
        "ground-vehicle",
        ("transport-ground",),
        but_not=(
            "station",
            "busstop",
            "motorway",
            "railway_track",
            "oil_drum",
            "fuelpump",
            "wheel",
            "rotating_light",
            "traffic_light",
            "vertical_traffic_light",
            "octagonal_sign",
            "construction",
        ),
    ),
    IdeogramClass(
        "ship-or-aircraft", ("transport-water", "transport-air"), but_not=("anchor", "ring_buoy", "seat")
    ),
    IdeogramClass(
        "sky",
        ("sky & weather",),
        but_not=(
            "thermometer",
            "closed_umbrella",
            "umbrella",
            "umbrella_with_rain_drops",
            "umbrella_on_ground",
            "snowman",
            "snowman_without_snow",
            "fire",
            "ocean",
        ),
    ),
    IdeogramClass("clock", ("time",)),
    IdeogramClass("celebration", ("event", "award-medal")),
    IdeogramClass(
        "game", ("sport", "game"), but_not=("martial_arts_uniform", "running_shirt_with_sash", "hearts")
    ),
    IdeogramClass(
        "clothing",
        ("clothing",),
        also=("martial_arts_uniform", "running_shirt_with_sash"),
        but_not=("folding_hand_fan", "hair_pick", "prayer_beads", "lipstick", "gem"),
    ),
    IdeogramClass("music", ("sound", "music", "musical-instrument")),
    IdeogramClass(
        "device",
        ("phone", "computer", "light & video"),
        but_not=(
            "calling",
            "abacus",
            "mag",
            "mag_right",
            "candle",
            "bulb",
            "flashlight",
            "izakaya_lantern",
            "diya_lamp",
        ),
    ),
    IdeogramClass("stationery", ("book-paper", "writing", "office", "mail"), but_not=("wastebasket",)),
    IdeogramClass(
        "tool",
        ("tool", "lock", "science", "medical"),
        but_not=("probing_cane", "dna", "petri_dish", "drop_of_blood", "pill", "adhesive_bandage", "x-ray"),
    ),
    IdeogramClass(
        "household",
        ("household", "dishware", "hotel"),
        also=("candle", "bulb", "flashlight", "izakaya_lantern", "diya_lamp", "wastebasket"),
        but_not=("bubbles",),
    ),
    IdeogramClass("arrow", ("arrow",)),
)

NEAR_DUPLICATES: frozenset[str] = frozenset(
    {
        "black_bird",
        "black_cat",
        "black_heart",
        "blue_book",
        "blue_heart",
        "brown_heart",
        "camera_with_flash",
        "dvd",
        "european_post_office",
        "fearful",
        "green_book",
        "green_heart",
        "grey_heart",
        "grin",
        "heartpulse",
        "imp",
        "light_blue_heart",
        "oncoming_taxi",
        "orange_book",
        "orange_heart",
        "person_with_blond_hair",
        "pink_heart",
        "pregnant_man",
        "pregnant_person",
        "prince",
        "purple_heart",
        "red_haired_person",
        "second_place_medal",
        "service_dog",
        "sound",
        "third_place_medal",
        "white_frowning_face",
        "white_haired_person",
        "white_heart",
        "yellow_heart",
    }
)

NOT_FREE: frozenset[str] = frozenset({"joystick", "paperclip", "technologist", "video_game"})


def is_gendered(identity: str) -> bool:
    """Whether a code-point sequence (hex, joined by hyphens) is the male or female variant of a neutral form."""
    parts = identity.split("-")
    return ZERO_WIDTH_JOINER in parts and (
        parts[0] in (MAN, WOMAN) or MALE_SIGN in parts or FEMALE_SIGN in parts
    )


def class_of(short_name: str, subcategory: str) -> str | None:
    """Name of the class of an ideogram, or None if it is left out (rules 1, 2, 4 and 5)."""
    if short_name in NEAR_DUPLICATES | NOT_FREE:
        return None
    for entry in CLASSES:
        if short_name in entry.also:
            return entry.name
        if subcategory in entry.subcategories and short_name not in entry.but_not:
            return entry.name
    return None
