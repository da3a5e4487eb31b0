"""A topic that is fed at least once: repeats are dropped, what cannot be processed goes to a dead letter topic."""

from datetime import timedelta
from decimal import Decimal

from msgspec import Struct

from streamcore import DeadLetter, Job, Topic, agg


class Payment(Struct, frozen=True):
    payment_id: str
    account: str
    amount: Decimal
    currency: str = "EUR"


class Balance(Struct, frozen=True):
    account: str
    total: Decimal


def in_euro(payment: Payment) -> Payment:
    if payment.currency != "EUR":
        raise LookupError(f"no rate for {payment.currency}")
    return payment


def to_balance(account: str, total: Decimal) -> Balance:
    return Balance(account, total)


def amount(payment: Payment) -> Decimal:
    return payment.amount


payments = Topic("payments", Payment, key=str)  # keyed by payment id, as its producer sends it
balances = Topic("balances", Balance, key=str)

job = Job("balances", on_error=DeadLetter("payments.dlq"))
(
    job.stream(payments)
    .dedupe("seen", by=lambda payment: payment.payment_id, keep=timedelta(days=7))
    .map(in_euro)
    .key_by("by-account", lambda payment: payment.account)
    .aggregate("total", agg.sum(amount))
    .updates()
    .map_items(to_balance)
    .to(balances)
)
