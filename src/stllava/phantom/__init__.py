"""A drawn picture world with full ground truth: the whole pipeline in minutes on a laptop CPU.

world    what is on a medical picture         draw     the picture (chest, abdomen, brain)
general  a non-medical world for pre-training scenes   its pictures
vocab    the words of both worlds, as data    grammar  questions, noun phrases, answers
talk     conversations, benchmark, text-only  claims   what an answer says, against the truth
oracle   a judge that reads the paper's prompt and knows the truth

Nothing here is medical data, and nothing learnt from it is medical advice.
"""
