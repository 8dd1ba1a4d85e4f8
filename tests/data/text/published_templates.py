"""Chat templates that write what published ones write, and the special tokens that each family has."""

from dataclasses import dataclass

_ROLES = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
)
_DEFAULT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass(frozen=True)
class Published:
    template: str
    special: tuple[str, ...]  # BOS first, where there is one
    eos: str  # the tokenizer's
    end: str  # of an assistant's turn
    bos: str | None = None
    adds_bos: bool = False  # the tokenizer puts it in front of a text by itself
    system: bool = True  # takes messages of the system
    alternates: bool = False  # raises for roles that do not alternate


PUBLISHED = {
    "chatml": Published(
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|endoftext|>",
        end="<|im_end|>",
    ),
    "llama-3": Published(
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        eos="<|end_of_text|>",
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        adds_bos=True,
    ),
    "qwen-2.5": Published(
        "{%- if messages[0]['role'] == 'system' %}"
        "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
        f"{{%- else %}}{{{{- '<|im_start|>system\n{_DEFAULT}<|im_end|>\n' }}}}{{%- endif %}}"
        "{%- for m in messages %}{%- if not (loop.first and m['role'] == 'system') %}"
        "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        end="<|im_end|>",
    ),
    "gemma": Published(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        f"{{% endif %}}{{% for m in messages %}}{_ROLES}"
        "{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        end="<end_of_turn>",
        bos="<bos>",
        adds_bos=True,
        system=False,
        alternates=True,
    ),
    "mistral": Published(
        f"{{{{ bos_token }}}}{{% for m in messages %}}{_ROLES}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token}}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        eos="</s>",
        end="</s>",
        bos="<s>",
        adds_bos=True,
        system=False,
        alternates=True,
    ),
    "zephyr": Published(
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        ("<s>", "</s>"),
        eos="</s>",
        end="</s>",
        bos="<s>",
        adds_bos=True,
    ),
}
