"""Structures to label, teachers that label them, and files of labels to train on."""
