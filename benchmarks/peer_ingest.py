"""LangChain or LlamaIndex taking in documents with MiniLM, for comparison with our knowledge base.

Neither is a dependency of this project. Give them an environment of their own and name its Python to `llmguide evidence kb_speed`:

    python -m venv peers && peers/bin/pip install "sentence-transformers==6.2.0" "langchain-community==0.4.2" \
        "langchain-huggingface==1.2.3" "langchain-text-splitters==1.1.3" "llama-index-core==0.14.25" \
        "llama-index-embeddings-huggingface==0.8.0" "llama-index-readers-file==0.7.0"
    LLMGUIDE_PEERS_PYTHON=peers/bin/python llmguide evidence kb_speed ingest

This script is started by `evidence_kb_speed.py` with that Python. It reads a job as JSON from standard input (library, folder of the
model, files, and texts that were cut already, or null for the library's own splitter) and writes seconds and passages to standard output.
"""

import contextlib
import json
import sys
import time


def langchain(model, files, texts):
    """TextLoader, RecursiveCharacterTextSplitter, HuggingFaceEmbeddings, InMemoryVectorStore, all as they come."""
    from langchain_community.document_loaders import TextLoader
    from langchain_core.documents import Document
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    embeddings = HuggingFaceEmbeddings(model_name=model)
    embeddings.embed_query("warm")

    def run():
        if texts: cut = [Document(page_content=text) for text in texts]
        else:
            documents = [one for file in files for one in TextLoader(file, encoding="utf-8").load()]
            cut = RecursiveCharacterTextSplitter().split_documents(documents)
        InMemoryVectorStore(embeddings).add_documents(cut)
        return [one.page_content for one in cut]

    return run


def llamaindex(model, files, texts):
    """SimpleDirectoryReader, SentenceSplitter, HuggingFaceEmbedding, VectorStoreIndex, all as they come."""
    from llama_index.core import Document, SimpleDirectoryReader, VectorStoreIndex
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embeddings = HuggingFaceEmbedding(model_name=model)
    embeddings.get_text_embedding("warm")

    def run():
        if texts: nodes = [TextNode(text=text) for text in texts]
        else:
            documents: list[Document] = SimpleDirectoryReader(input_files=files).load_data()
            nodes = SentenceSplitter().get_nodes_from_documents(documents)
        VectorStoreIndex(nodes, embed_model=embeddings)
        return [node.get_content(metadata_mode="embed") for node in nodes]

    return run


def main():
    """Run the job once and report."""
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        run = {"langchain": langchain, "llamaindex": llamaindex}[job["library"]](job["model"], job["files"], job["texts"])
        start = time.perf_counter()
        passages = run()
        seconds = time.perf_counter() - start
    json.dump({"seconds": seconds, "passages": passages}, sys.stdout)


if __name__ == "__main__":
    main()
