"""The plain template of a chat, for models that were trained on none."""

from collections.abc import Sequence

from folio.serve.requests import Message

ROLES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}

STOP = f"\n{ROLES['user']}:"
"""The model would go on with the next question."""


def chat_prompt(messages: Sequence[Message]) -> str:
    """Return one line for each message after the name of its role, and the name of the assistant, who is to go on.

    If the last message is the assistant's, the model continues it.

        >>> chat_prompt([Message(role="user", content="Who is there?")])
        'User: Who is there?\\nAssistant:'
    """
    lines = [f"{ROLES[message.role]}: {message.text()}" for message in messages]
    if messages[-1].role != "assistant":
        lines.append(f"{ROLES['assistant']}:")
    return "\n".join(lines)
