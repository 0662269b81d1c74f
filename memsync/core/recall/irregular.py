"""Irregular English forms: what no rule of a stemmer brings together. Pure.

"Where did she go?" asks for "We went to Graz". What is told apart no more ("left" the direction
and "left" of "leave") is still found by itself, only less precisely; so forms that are mostly
another word are left out (bit, ground, lay, rose, wound, bore, lives, leaves).
"""

from __future__ import annotations

from collections.abc import Mapping

FORMS = """
    beat: beaten; become: became; begin: began begun; bend: bent; bind: bound; bite: bitten;
    bleed: bled; blow: blew blown; break: broke broken; breed: bred; bring: brought; build: built;
    burn: burnt; buy: bought; catch: caught; choose: chose chosen; cling: clung; come: came;
    creep: crept; deal: dealt; dig: dug; draw: drew drawn; dream: dreamt; drink: drank drunk;
    drive: drove driven; eat: ate eaten; fall: fell fallen; feed: fed; feel: felt; find: found;
    fight: fought; flee: fled; fly: flew flown; forbid: forbade forbidden; forget: forgot
    forgotten; forgive: forgave forgiven; freeze: froze frozen; get: got gotten; give: gave given;
    go: went gone; grow: grew grown; hang: hung; hear: heard; hide: hid hidden; hold: held; keep:
    kept; kneel: knelt; know: knew known; lead: led; learn: learnt; leave: left; lend: lent; lose:
    lost; make: made; mean: meant; meet: met; mistake: mistook mistaken; overcome: overcame; pay:
    paid; ride: rode ridden; ring: rang rung; rise: risen; run: ran; say: said; see: saw seen;
    seek: sought; sell: sold; send: sent; sew: sewn; shake: shook shaken; shine: shone; shoot:
    shot; show: shown; shrink: shrank shrunk; sing: sang sung; sink: sank sunk; sit: sat; sleep:
    slept; speak: spoke spoken; spend: spent; spill: spilt; spin: spun; spring: sprang sprung;
    stand: stood; steal: stole stolen; stick: stuck; sting: stung; strike: struck; strive: strove
    striven; swear: swore sworn; sweep: swept; swim: swam swum; swing: swung; take: took taken;
    teach: taught; tear: tore torn; tell: told; think: thought; throw: threw thrown; undergo:
    underwent undergone; understand: understood; wake: woke woken; wear: wore worn; weave: wove
    woven; weep: wept; win: won; write: wrote written; child: children; foot: feet; goose: geese;
    half: halves; knife: knives; man: men; mouse: mice; person: people; shelf: shelves; thief:
    thieves; tooth: teeth; wife: wives; wolf: wolves; woman: women
"""


def read_forms(text: str) -> Mapping[str, str]:
    """Each form to the word that it is one of; `text` as FORMS."""
    entries = (entry.split(":") for entry in text.split(";"))
    return {form: word.strip() for word, forms in entries for form in forms.split()}


BASE_OF: Mapping[str, str] = read_forms(FORMS)
