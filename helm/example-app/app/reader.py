"""An application that needs Gmail: it makes a client for every look at the mailbox, and knows nothing of refreshing."""

import os
import sys
import time

from gmail_sdk import GmailClient


def look(account: str) -> str:
    """Ask for the mailbox's profile, with the token that the file holds now."""
    with GmailClient(account=account) as client:
        return f"{account}: {client.get_profile()['messagesTotal']} messages"


def main() -> None:
    """Look once, or once a minute."""
    account = os.environ["GMAIL_ACCOUNT"]
    while True:
        print(look(account), flush=True)
        if "--once" in sys.argv[1:]:
            return
        time.sleep(60)


if __name__ == "__main__":
    main()
