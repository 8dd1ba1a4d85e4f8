"""From text to tokens and back: tokenizers, chat templates, and the one layout of prompts and answers."""
