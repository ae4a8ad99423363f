"""Wordings of questions and answers about labels and reports: data, filled in by `say`.

{a} is a finding's wording with its article, {bare} without, {the} with "the"; {phrase} is all that
is known of it ("a small nodule on the left"); {Be} and {be} are "is" or "are". The first wording of
a closed question is the one that benchmarks use.
"""

from __future__ import annotations

# "finding": something that may be there; "structure": an organ that may be in the picture.
PRESENCE = {
    "finding": (
        "{Be} there {a} in this image?",
        "Does the image show {a}?",
        "{Be} {a} present?",
        "Can {a} be seen?",
        "Do you see {a} here?",
        "Does this picture contain {a}?",
    ),
    "structure": (
        "{Be} {the} visible in this image?",
        "Does the image show {the}?",
        "Can {the} be seen here?",
        "Do you see {the}?",
        "{Be} {the} in the picture?",
    ),
}
PRESENT = {
    "finding": (
        "Yes, there {be} {phrase}.",
        "Yes, the image shows {phrase}.",
        "Yes, I see {phrase}.",
    ),
    "structure": ("Yes, {phrase} {be} visible.", "Yes, the image shows {phrase}."),
}
ABSENT = {
    "finding": (
        "No, there {be} no {bare}.",
        "No, the image shows no {bare}.",
        "No, I see no {bare}.",
    ),
    "structure": ("No, {the} {be} not visible.", "No, the image does not show {the}."),
}

SIDE = {
    "finding": (
        "On which side {be} {the}: left, right or both?",
        "Which side shows {the}?",
        "Where {be} {the}, on the left, on the right or on both sides?",
    ),
    "structure": (
        "Which {bare} is visible: left, right or both?",
        "Is it the left or the right {bare} that is visible, or both?",
    ),
}
ON_SIDE = {"left": "on the left", "right": "on the right", "both": "on both sides"}
SIDE_ANSWER = {
    "finding": ("{The} {be} {on_side}.", "There {be} {phrase}."),
    "structure": ("The image shows {phrase}.", "{Phrase} {be} visible."),
}

GRADE = (
    "How severe {be} {the}: {options}?",
    "How would you grade {the}?",
    "What is the degree of {the}?",
)
GRADE_ANSWER = ("{The} {be} {grade}.", "There {be} {phrase}.")

SEEN = (
    "What is seen in this image?",
    "What does this image show?",
    "What stands out in this image?",
    "What can you make out here?",
    "Sum up what the image shows.",
)
SEEN_ANSWER = {
    "finding": ("The image shows {list}.", "I see {list}.", "There {be} {list}."),
    "structure": ("The image shows {list}.", "I see {list}."),
}
NOTHING_SEEN = ("There is no {list}.", "The image shows no {list}.", "I see no {list}.")

MODALITY = (
    "What modality is this image?",
    "How was this image taken?",
    "Which imaging method was used here?",
)
MODALITY_ANSWER = ("This is {value}.", "The image was taken by {value}.")
VIEW = ("Which view is this?", "From which direction was this image taken?")
VIEW_ANSWER = ("It is the {value} view.", "This is the {value} view.")

TEXT = ("What is the {bare}?", "How would you describe the {bare}?")

REPORT_FINDINGS = (
    "Describe the findings in this image.",
    "What are the findings?",
    "Report what this image shows.",
    "Write the findings section of a report on this image.",
)
REPORT_IMPRESSION = (
    "What is your impression of this image?",
    "How would you sum up this image in a report?",
    "What do you conclude from this image?",
)
REPORT_TOPIC = (
    "What is seen of {topic}?",
    "Describe {topic}.",
    "What can be said about {topic}?",
    "What about {topic}?",
)
