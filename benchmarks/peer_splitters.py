"""LangChain's and LlamaIndex's splitters on some texts; called by evidence_retrieval.py with a Python of their own.

They live in an environment apart, so that nothing they need touches this project's:
    python -m venv peers && peers/bin/pip install langchain-text-splitters==1.1.3 llama-index-core==0.14.25
    LLMGUIDE_PEERS_PYTHON=peers/bin/python llmguide evidence retrieval
JSON comes in on standard input: texts, tokens (the size of a chunk), pattern (a regular expression for one token).
JSON goes out: for each arm the seconds and, text by text, the chunks as [start, text].
"""

import json
import re
import sys
import time


def arms(tokens, pattern):
    """Each splitter with its own defaults and with chunks of a given size, its usual share of overlap kept."""
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from llama_index.core import Document
    from llama_index.core.node_parser import SentenceSplitter

    count = lambda text: len(pattern.findall(text))  # noqa: E731

    def langchain(**options):
        splitter = RecursiveCharacterTextSplitter(add_start_index=True, **options)
        return lambda text: [[d.metadata["start_index"], d.page_content] for d in splitter.create_documents([text])]

    def llamaindex(**options):
        splitter = SentenceSplitter(**options)
        return lambda text: [[n.start_char_idx or 0, n.text] for n in splitter.get_nodes_from_documents([Document(text=text)])]

    return {"LangChain, defaults": langchain(),
            "LangChain, same size": langchain(chunk_size=tokens, chunk_overlap=tokens // 20, length_function=count),
            "LlamaIndex, defaults": llamaindex(),
            "LlamaIndex, same size": llamaindex(chunk_size=tokens, chunk_overlap=tokens // 5, tokenizer=pattern.findall)}


def main():
    given, out = json.load(sys.stdin), {}
    for name, split in arms(given["tokens"], re.compile(given["pattern"])).items():
        start = time.perf_counter()
        chunks = [split(text) for text in given["texts"]]
        out[name] = {"seconds": time.perf_counter() - start, "chunks": chunks}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
