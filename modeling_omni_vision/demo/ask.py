"""The tab Ask: a chat about an image, word by word, and the patches that the last answer needed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
import torch
from transformers import TextIteratorStreamer

from ..image_processing_omni_vision import OmniVisionImageProcessor
from ..interpretability.occlusion import explain_chat
from ..interpretability.plots import Scale
from .components import ONE_AT_A_TIME, Drawing, ImageFile, answering, map_drawing, note
from .example_images import EXAMPLES, add_examples
from .opened import OpenedCheckpoint


MAX_NEW_TOKENS = 64
Turns = list[dict[str, str]]


def ask(opened: OpenedCheckpoint, image: Any, question: str, turns: Turns, force: bool = False) -> Iterator[Turns]:
    """Yield the chat with the answer to a question, longer with each word: `role` and `content` of every turn."""
    question = (question or "").strip()
    if image is None or not question:
        raise ValueError("Expected an image and a question. Upload an image or choose an example, and ask about it.")
    processor, model = opened.language
    asked: Turns = [*turns, {"role": "user", "content": question}]
    refusal = None if force or not hasattr(processor, "refusal") else processor.refusal(question)
    if refusal:
        yield [*asked, {"role": "assistant", "content": refusal}]
        return
    chat = conversation(image, asked)
    inputs = processor.apply_chat_template(chat, **template_options(processor))
    length, most = inputs["input_ids"].shape[1], model.config.get_text_config().max_position_embeddings
    if length + MAX_NEW_TOKENS > most:
        raise ValueError(f"Expected a chat of at most {most - MAX_NEW_TOKENS} tokens, got {length}. Begin a new one.")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def generate() -> None:
        try:
            with torch.inference_mode():
                model.generate(**inputs, streamer=streamer, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        finally:
            streamer.end()  # twice does no harm; never would keep the reader waiting

    with ThreadPoolExecutor(1) as pool:
        running, answer = pool.submit(generate), ""
        for word in streamer:
            answer += word
            yield [*asked, {"role": "assistant", "content": answer}]
        running.result()
    yield [*asked, {"role": "assistant", "content": answer.strip()}]


def needed_patches(opened: OpenedCheckpoint, image: Any, turns: Turns) -> dict[str, Any]:
    """Return by how many nats the first word of the last answer is less probable without each patch."""
    if image is None or len(turns) < 2:
        raise ValueError("Expected an image and an answer about it. Ask something first.")
    processor, model = opened.language
    if hasattr(processor, "refusal") and turns[-1]["content"] == processor.refusal(turns[-2]["content"]):
        return {"html": note("The question was not answered.")}
    found = explain_chat(model, processor, conversation(image, turns[:-1]), MAX_NEW_TOKENS, **forced(processor))
    if found.relevance is None:
        return {"html": note("This model gets CLS only: no patch of its own can be left out.")}
    scale = Scale.of([found.relevance], "nats lost without the patch", least=0.5)
    alt = f"Patches that the answer {found.answer!r} depends on: at most {found.relevance.max():.2f} nats"
    _, seen = opened.pixels(image)
    return {"answer": found.answer} | map_drawing(seen, found.relevance, scale, alt, "Patches that the answer needed")


def conversation(image: Any, turns: Turns) -> list[dict[str, Any]]:
    """Return the chat as the processor takes it, with the image before the first question."""
    (read,) = OmniVisionImageProcessor().fetch_images([image])
    chat = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    chat[0]["content"] = [{"type": "image", "image": read}, *chat[0]["content"]]
    return chat


def template_options(processor: Any) -> dict[str, Any]:
    """Return what makes inputs of a chat."""
    fixed = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return fixed | forced(processor)


def forced(processor: Any) -> dict[str, Any]:
    """Return what keeps our processor from asking again whether the question was learned."""
    return {"force": True} if hasattr(processor, "refusal") else {}


def ask_tab(opened: OpenedCheckpoint) -> None:
    """Build the tab."""
    refusal = getattr(opened.language[0], "refusal", lambda question: None)
    questions = EXAMPLES.questions(lambda text: refusal(text) is None) or ["What is in the image?"]
    closed = refusal("") is not None
    turns = gr.State([])
    with gr.Row():
        with gr.Column(min_width=280):
            image = ImageFile.labelled("Image to ask about")
            drawn = Drawing.saying("After an answer: the patches that it depends on.", "Patches")
        with gr.Column(min_width=280):
            chat = gr.Chatbot(label="Chat", placeholder="Ask about the image.", height=320, buttons=[])
            question = gr.Textbox(label="Question", placeholder=questions[0], max_lines=1)
            force = gr.Checkbox(False, label="Answer questions too that the model did not learn", visible=closed)
            with gr.Row():
                send = gr.Button("Ask", variant="primary")
                clear = gr.Button("New chat")
    add_examples(opened, [image, question], 5, questions)

    def answer(image: Any, question: str, turns: Turns, force: bool) -> Iterator[Any]:
        for now in ask(opened, image, question, turns, force):
            yield now, now, gr.skip()
        yield now, now, needed_patches(opened, image, now)

    asking = gr.on(
        [send.click, question.submit],
        answering(answer),
        [image, question, turns, force],
        [chat, turns, drawn],
        api_name="ask",
        api_description="Answer a question about an image, word by word; earlier turns of the session belong to it.",
        show_progress_on=drawn,
        **ONE_AT_A_TIME,
    )
    asking.success(lambda: "", None, question, api_visibility="private", queue=False)
    gr.on(
        [clear.click, chat.clear, image.change],
        lambda: ([], [], drawn.value),
        None,
        [chat, turns, drawn],
        api_name="new_chat",
        api_description="Forget the turns of the session.",
        queue=False,
    )


__all__ = ["ask", "ask_tab", "needed_patches"]
