"""Tasks write the prompts that a spec measures on. No torch; imports go down this list only.

families: one file for each task family
writing: how rows are written: texts with slots, word lists, lines of JSONL files
base: the base class of a family, the public seam
text: prompts, and from text to tokens: joints, chat templates, tokenizers
files: files beside a spec
"""
