"""What is asked for in photographs, and the words of captions that name it or leave it open."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PEOPLE = (
    "person people someone player players rider riders biker bikers cyclist skateboarder "
    "snowboarder skier surfer climber hiker runner swimmer team crowd group adult adults "
    "couple friends teenager teenagers teen youth youths performer worker dancer they kayaker "
    "spectators bicyclist motorcyclist racer athlete musician tourist tourists soldier officer "
    "boxer boxers wrestler wrestlers fencer fencers gymnast gymnasts fighter fighters opponent "
    "batter pitcher catcher goalkeeper goalie referee umpire golfer bowler archer rower rowers "
    "lifter jockey chef cook doctor nurse police policeman fireman firefighter farmer driver pilot "
    "judge bride groom speaker astronaut skater skaters snowboarders surfers skiers climbers "
    "cyclists workers soldiers officers dancers swimmers runners passengers shoppers students "
    "pedestrians fans audience spectator everyone everybody others "
    "he she his her him hand hands arm arms finger fingers face leg legs foot feet"
)
_CHILDREN = "child children kid kids toddler toddlers baby infant"
_WATERS = "water ocean sea lake river pool wave waves pond stream creek surf waterfall puddle"


@dataclass(frozen=True)
class Concept:
    """Something that a photograph may show.

    said: how it is spoken of. words: those in a caption that name it. near: those that leave it
    open whether it is there.
    """

    said: str
    words: frozenset[str]
    near: frozenset[str]

    @property
    def name(self) -> str:
        """Without its article."""
        return re.sub(r"^(a|an|some) ", "", self.said)


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _concept(said: str, words: str, near: str = "") -> Concept:
    return Concept(said, word_set(words), word_set(near))


CONCEPTS = (
    _concept("a man", "man men guy guys gentleman", f"{_PEOPLE} male males"),
    _concept("a woman", "woman women lady ladies", f"{_PEOPLE} female females girl girls"),
    _concept("a boy", "boy boys", f"{_CHILDREN} {_PEOPLE} man men guy guys"),
    _concept("a girl", "girl girls", f"{_CHILDREN} {_PEOPLE} woman women lady"),
    _concept("a child", f"boy boys girl girls {_CHILDREN}", f"{_PEOPLE} man woman men women"),
    _concept("a baby", "baby infant toddler toddlers", _CHILDREN),
    _concept(
        "a person",
        f"man men guy woman women lady boy boys girl girls {_CHILDREN} {_PEOPLE}",
        "he she his her him their hand hands face",
    ),
    _concept("a crowd", "crowd crowded crowds spectators audience", "people group many"),
    _concept("a dog", "dog dogs puppy puppies poodle greyhound greyhounds retriever", "animal"),
    _concept("a horse", "horse horses pony rodeo bronco", "animal animals"),
    _concept("a cat", "cat cats kitten", "animal animals"),
    _concept("a bird", "bird birds seagull seagulls pigeon pigeons duck ducks swan", "animal"),
    _concept("a ball", "ball balls football basketball volleyball baseball soccer", "game player"),
    _concept("a bike", "bike bikes bicycle bicycles bicyclist cyclist bicycling", "biker rider"),
    _concept("a motorcycle", "motorcycle motorcycles motorbike motorcyclist", "biker bike rider"),
    _concept("a car", "car cars taxi vehicle vehicles", "street road traffic truck van race"),
    _concept("a boat", "boat boats kayak canoe raft ship kayaker sailboat", "water lake river"),
    _concept("a skateboard", "skateboard skateboarder skateboarding skateboarders", "skate board"),
    _concept("a surfboard", "surfboard surfer surfing surfers surf surfs", "board wave waves"),
    _concept("a snowboard", "snowboard snowboarder snowboarding snowboarders", "board snow snowy"),
    _concept("a swing", "swing swings swinging", "playground"),
    _concept("a slide", "slide slides sliding", "playground"),
    _concept("water", f"{_WATERS} swimming splashing wading surfing", "beach shore boat dock"),
    _concept("a swimming pool", "pool pools", "swimming water swim"),
    _concept("the sea", "ocean sea surf surfer surfing", "beach water wave waves shore boat"),
    _concept("a beach", "beach beaches shore seashore", "sand ocean sea sandy water"),
    _concept("sand", "sand sandy beach dune dunes", "desert shore ocean dirt"),
    _concept("snow", "snow snowy snowboarder skier skiing ski sled snowboard", "winter ice icy"),
    _concept("grass", "grass grassy lawn", "field yard park hill meadow soccer garden golf"),
    _concept("a field", "field fields meadow", "grass grassy lawn park yard"),
    _concept("a street", "street streets road roads sidewalk", "city path car cars bus curb"),
    _concept("a mountain", "mountain mountains mountainside cliff peak", "hill rock rocky hills"),
    _concept("a rock", "rock rocks rocky boulder boulders cliff", "mountain stone stones climbing"),
    _concept("a tree", "tree trees forest woods wooded", "park branch branches leaves path"),
    _concept("a building", "building buildings house skyscraper", "city street store wall brick"),
    _concept("a wall", "wall walls", "building brick"),
    _concept("a fence", "fence fences", "yard railing"),
    _concept("a bench", "bench benches", "seat sitting sits"),
    _concept("a table", "table tables", "restaurant desk eating dinner"),
    _concept("a hat", "hat hats cap caps", "helmet hood headgear"),
    _concept("a helmet", "helmet helmets", "bike motorcycle biker rider cap hat gear football"),
    _concept("someone with glasses", "glasses sunglasses goggles", "mask shades"),
    _concept("a guitar", "guitar guitars guitarist", "instrument instruments band music"),
    _concept("a toy", "toy toys", "ball frisbee doll"),
    _concept("a stick", "stick sticks branch", "bat pole"),
    _concept("a frisbee", "frisbee frisbees disc", "toy"),
    _concept("a camera", "photographer cameras", "camera picture photo photograph"),
    _concept("a flower", "flower flowers", "garden"),
)
# What a single caption would name where it is there: of these its silence says no.
NOTICED = frozenset(
    (
        "a man", "a woman", "a boy", "a girl", "a child", "a baby", "a person", "a crowd", "a dog",
        "a horse", "a cat", "a bird", "a bike", "a motorcycle", "a boat", "a skateboard",
        "a surfboard", "a snowboard", "a swimming pool", "the sea", "a beach", "snow", "a guitar",
        "a frisbee", "a mountain",
    )
)  # fmt: skip
PEOPLE = tuple(
    concept for concept in CONCEPTS if concept.said in ("a man", "a woman", "a child", "a person")
)
# Asked as "Is someone ...?".
ACTIONS = (
    _concept("running", "running runs run runner runners", "race racing chasing chases chase"),
    _concept("jumping", "jumping jumps jump leaps leaping leap midair airborne", "air trick"),
    _concept("swimming", "swimming swims swim swimmer swimmers", "water pool"),
    _concept("climbing", "climbing climbs climb climber climbers", "rock cliff mountain"),
    _concept("riding", "riding rides ride rider riders biker cyclist", "bike horse race bicycle"),
    _concept("sitting", "sitting sits sit seated", "bench chair table couch riding"),
    _concept("dancing", "dancing dances dance dancer dancers", "performing performs stage"),
    _concept("surfing", "surfing surfs surfer surfers surf", "wave surfboard"),
    _concept("playing football", "football", "player players game team ball"),
    _concept("playing a game with a ball", "soccer football basketball baseball tennis volleyball",
             "ball player players game team sport"),
)  # fmt: skip
