"""Names and meanings of figures in plain words, and how figures are written."""

from dataclasses import dataclass

import numpy as np

from training.evaluation.figures import Figure

SURE = 0.9
"""Least calibrated probability at which an answer is called sure."""
LEANING = 0.5


@dataclass(frozen=True)
class Word:
    """How a figure is presented.

    Attributes:
        name: short.
        meaning: one sentence for somebody who does not know the measure.
        percent: written in percent, else as a number.
    """

    name: str
    meaning: str
    percent: bool = True


FIGURES = {
    "top1": Word("Top-1", "The class named first is the right one."),
    "top5": Word("Top-5", "The right class is among the first five."),
    "mean_per_class": Word("Mean per class", "Top-1 averaged over the classes: a rare class counts like any other."),
    "macro_f1": Word("Macro F1", "Recall and precision in one, averaged over the classes; 100% is perfect."),
    "ece": Word(
        "Calibration error",
        "How far stated probabilities lie from how often they are right.",
    ),
    "adaptive_ece": Word("Adaptive calibration error", "The same with equally many photos in every bin."),
    "ece_uncalibrated": Word("Error before calibration", "The calibration error without the fitted temperature."),
    "nll": Word("Log loss", "Mean of −log of the right class's probability, in nats; 0 is perfect.", percent=False),
    "aurc": Word(
        "Area under risk–coverage",
        "Error rate averaged over the curve below; a random order gets the plain error rate.",
    ),
    "set_coverage": Word("Sets of 90% hold the class", "The right class is in the set that `coverage=0.9` answers."),
    "set_size": Word("Classes in such a set", "Mean number of classes in that set.", percent=False),
    "top1_of_surest_50": Word("Top-1, most confident 50%", "Of the half of the photos with the highest probabilities."),
    "top1_of_surest_70": Word("Top-1, most confident 70%", "Of the 70% of the photos with the highest probabilities."),
    "top1_of_surest_90": Word("Top-1, most confident 90%", "Of the 90% of the photos with the highest probabilities."),
    "pointing_game": Word("Grad-CAM points at it", "The map's highest place lies on the object."),
    "pointing_game_attention": Word("Attention points at it", "The attention's highest place lies on the object."),
    "energy_gradcam": Word("Grad-CAM's energy", "Share of the map that lies on the object."),
    "energy_attention": Word("Attention's energy", "Share of the attention above its minimum that lies on the object."),
    "max_box_acc_v2": Word("Boxes from Grad-CAM", "MaxBoxAccV2: a box drawn around the map matches the true box."),
    "part_pointing": Word(
        "Grad-CAM points at a part", "The map's highest place lies on a visible part, such as bill or crown."
    ),
    "contrast_score_of_marks": Word(
        "Contrast score of the marks", "The same of the map that the marks compose.", percent=False
    ),
    "contrast_score": Word(
        "Contrast score",
        "Does the map of “A, not B” follow how much A and B differ at each visible part? Rank correlation, at most 1.",
        percent=False,
    ),
    "mark_auroc": Word(
        "Marks distinguished",
        "Area under the curve of “seen”: photos of classes with a mark against photos of classes without it, the mean "
        "over marks; 0.5 is chance.",
        percent=False,
    ),
    "mark_auroc_product": Word(
        "The same by the class alone",
        "Probabilities of the classes times the table of marks, which looks at no mark.",
        percent=False,
    ),
    "mark_auroc_minus_product": Word(
        "Seen rather than known from the class", "The first less the second, on the same photos.", percent=False
    ),
    "mark_hits": Word("Marks hit their part", "The highest place of a mark's map lies on the part it is of."),
    "mark_auc": Word(
        "Marks prefer their part",
        "The mark's map at its own part against the photo's other visible parts; 0.5 is chance.",
        percent=False,
    ),
    "evidence_in_place": Word(
        "Evidence in place",
        "Blurring the place of the first mark costs the class more than blurring another part; chance is one half.",
    ),
    "seen_sees": Word(
        "Seen sees", "With a part blurred, its marks fall more than the other parts' marks; chance is one half."
    ),
    "seen_sees_product": Word(
        "The same by the class alone", "Probabilities times the table, from the same blurred photos."
    ),
}
"""Figures by their names in JSON."""

NAMING = ("top1", "top5", "mean_per_class", "macro_f1")
KNOWING = (
    "ece",
    "adaptive_ece",
    "ece_uncalibrated",
    "nll",
    "aurc",
    "set_coverage",
    "set_size",
    "top1_of_surest_50",
    "top1_of_surest_70",
    "top1_of_surest_90",
)

SEEING = tuple(name for name in FIGURES if name.startswith(("mark_", "evidence_", "seen_")))

MEASURES = {
    "pointing": Word("pointing", "The map's highest place lies on the object."),
    "pointing_tolerant": Word("tolerant", "The same, or at most 15 pixels beside it."),
    "energy": Word("energy", "Share of the map that lies on the object."),
    "enrichment": Word(
        "enrichment", "Energy divided by the object's share of the photo: an even map has 1.", percent=False
    ),
    "rank": Word("rank", "Of as many highest pixels as the object has, the share on the object."),
    "max_box_acc_v2": Word(
        "MaxBoxAcc",
        "A box around the map matches the true one (V2: overlaps 0.3, 0.5, 0.7, each at its best threshold).",
    ),
    "box_acc": Word("BoxAcc", "The same at overlap 0.5 and a threshold chosen on held-out photos."),
    "part_pointing": Word("parts", "The map's highest place lies on a visible part."),
    "contrast": Word(
        "contrast",
        "Rank correlation with how much the two likeliest classes differ at each part (six or more; right photos).",
        percent=False,
    ),
}
"""Columns of the table of maps."""

FAITHFULNESS = {
    "deletion": Word(
        "deletion", "Mean probability while the most relevant pixels are greyed out first: low is good.", percent=False
    ),
    "insertion": Word(
        "insertion", "Mean probability while the most relevant pixels come back first: high is good.", percent=False
    ),
    "road": Word("ROAD", "Least relevant pixels removed minus most relevant removed: high is good.", percent=False),
    "road_morf": Word(
        "ROAD, most relevant",
        "Probability with the most relevant pixels filled in from around them: low is good.",
        percent=False,
    ),
    "road_lerf": Word(
        "ROAD, least relevant", "Probability with the least relevant pixels filled in: high is good.", percent=False
    ),
    "average_drop": Word(
        "average drop", "Share of the probability lost when the photo is dimmed by the map: low is good.", percent=False
    ),
    "increase": Word("increase", "Share of photos whose probability rises then: high is good."),
}
"""Measures of faithfulness; a figure's name in JSON is the measure, `_` and the kind of map."""

PLACES = {
    "hits": Word("hits", "The map's highest place lies within an eighth of the box's sides of the mark's part."),
    "auc": Word(
        "AUC",
        "Share of the photo's other visible parts at which the map is lower than at the mark's own part.",
        percent=False,
    ),
}
"""Columns of the tables of where marks are read."""

EVIDENCE = {
    "evidence_in_place": Word(
        "costs more",
        "Share of rightly named photos in which a blurred disc there lowers the margin of the class over the next "
        "likely one more than an equal disc at another part.",
    ),
    "evidence_margin": Word("by", "How much more, in units of the logit.", percent=False),
}
"""Columns of the table of blurred places: figures by their names in JSON, to which the row is added."""

SIGHT = {
    "seen": Word("its own marks fall more", "Share of photos; chance is one half."),
    "fall": Word("by", "How much more, in log-odds.", percent=False),
    "product": Word("by the class alone", "The same of the probabilities of the classes times the table."),
    "product_fall": Word("by", "How much more, in log-odds.", percent=False),
}
"""Columns of the table of blurred parts."""

UNKNOWN = {
    "auroc": Word(
        "AUROC", "Share of pairs in which the unknown photo has the higher score; 0.5 is chance.", percent=False
    ),
    "fpr95": Word("FPR95", "Share of the unknown photos that pass where 95% of the known ones do: low is good."),
    "above": Word("called unknown", "Share of the unknown photos above the model's threshold."),
    "known_above": Word("known called unknown", "The same of the photos of known classes; meant to be 5%."),
}
"""Columns of the tables of unknown photos."""

SCORES = {"novelty": "novelty", "max_probability": "largest probability", "max_logit": "largest logit"}
"""Lines of these tables."""

MAPS = {
    "gradcam": "Grad-CAM",
    "contrast": "“A, not B”",
    "marks_contrast": "“A, not B” of the marks",
    "attention": "attention",
    **{
        f"{kind}_{way}": f"{name}, {words}"
        for way, words in (
            ("centres", "cells at their centres"),
            ("even", "cells side by side"),
            ("looking", "cells where they look"),
        )
        for kind, name in (("gradcam", "Grad-CAM"), ("contrast", "“A, not B”"), ("attention", "attention"))
    },
    "marks": "the marks' maps",
    "centred_gaussian": "centred Gaussian",
    "box_centre": "middle of the true box",
    "centre": "centre",
    "random": "random",
    "random_weights": "random weights",
}
GAUSSIAN = "centred_gaussian"
"""The kind of chance that others are compared with: photographers put their object in the middle."""
CHANCE = (GAUSSIAN, "centre", "box_centre", "random", "random_weights")
"""Kinds of maps that know nothing of the photo."""


def certainty(probability: float) -> str:
    """Return the word for a calibrated probability."""
    if probability >= SURE:
        return "sure"
    return "leaning" if probability >= LEANING else "unsure"


def stated(probability: float) -> str:
    """Return a photo's probability, cut to a digit behind the point: 89.97% is not yet 90."""
    return f"{np.floor(1000 * probability + 1e-9) / 10:.1f}%"


def hundredths(share: float) -> str:
    """Return a share in hundredths, or a question mark where it is unknown, NaN."""
    return "?" if np.isnan(share) else f"{100 * share:.0f}"


def map_name(kind: str) -> str:
    """Return a kind of map in words; `gradcam_minus_random` is `Grad-CAM minus random`."""
    return " minus ".join(MAPS.get(part, part.replace("_", " ")) for part in kind.split("_minus_"))


def number(value: float, *, percent: bool = True, unit: bool = True) -> str:
    """Return a number with a digit behind the point as percent, else with three significant places; `–` for none."""
    if not np.isfinite(value):
        return "–"
    text = f"{100 * value:.1f}{'%' if unit else ''}" if percent else f"{value:.3f}"
    return text.replace("-", "−")


def interval(figure: Figure, *, percent: bool = True) -> str:
    """Return the 95% interval: `78.2–83.3`, or `−0.01 to 0.12` where a sign would be taken for the dash."""
    low, high = (number(end, percent=percent, unit=False) for end in (figure.low, figure.high))
    return f"{low} to {high}" if figure.low < 0 else f"{low}–{high}"


def shown(figure: Figure, *, percent: bool = True) -> str:
    """Return a figure as text: `80.9%, 78.2–83.3, n = 911`."""
    return f"{number(figure.value, percent=percent)}, {interval(figure, percent=percent)}, n = {figure.n}"
