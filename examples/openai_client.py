"""The openai package against a running server: whole, streamed, a typed error.

pip install openai
python examples/openai_client.py --url http://localhost:8080
"""

import argparse

import openai
from openai.types.chat import ChatCompletionUserMessageParam

QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "What is the capital of France?"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8080")
    with openai.OpenAI(base_url=parser.parse_args().url + "/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        whole = client.chat.completions.create(model=model, messages=[QUESTION], temperature=0)
        print("whole:", whole.choices[0].message.content)
        print("streamed: ", end="")
        for chunk in client.chat.completions.create(model=model, messages=[QUESTION], temperature=0, stream=True):
            print(chunk.choices[0].delta.content or "", end="|", flush=True)
        print()
        try:
            client.chat.completions.create(model=model, messages=[QUESTION], temperature=3)
        except openai.BadRequestError as error:
            print("refused:", error.message)


if __name__ == "__main__":
    main()
