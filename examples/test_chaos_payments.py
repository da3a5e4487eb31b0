"""An at-least-once source: events twice and late, a check of one's own, and dead letters that are counted."""

from datetime import timedelta
from decimal import Decimal

from examples.c_payments import Payment, balances, job, payments
from streamcore import Topic
from streamcore.testing import chaos

PAYMENTS = [Payment(f"p{n}", f"a{n % 5}", Decimal(n), "USD" if n % 20 == 7 else "EUR") for n in range(150)]
letters = Topic("payments.dlq", Payment)


def totals_are_right(history: chaos.History) -> str | None:
    euro = [payment for payment in PAYMENTS if payment.currency == "EUR"]
    wanted = {account: sum(p.amount for p in euro if p.account == account) for account in {p.account for p in euro}}
    found = {account: max(b.total for b in history.read(balances) if b.account == account) for account in wanted}
    return None if found == wanted else f"balances {found}, should be {wanted}"


def every_refused_payment_is_kept(history: chaos.History) -> str | None:
    """A repeat of one is refused again: what fails leaves no trace in the inbox, so that it can be sent anew."""
    wanted = {p.payment_id for p in PAYMENTS if p.currency != "EUR"}
    found = {p.payment_id for p in history.read(letters)}
    return None if found == wanted else f"dead letters {found}, should be {wanted}"


def test_no_payment_counts_twice() -> None:
    report = chaos.run(
        job,
        feeds=[chaos.feed(payments, PAYMENTS, key=lambda payment: payment.payment_id)],
        faults=[chaos.Duplicate(rate=0.2), chaos.Reorder(by=timedelta(seconds=1)), *chaos.everything()],
        seeds=range(30),
        checks=[totals_are_right, every_refused_payment_is_kept, chaos.no_gaps_or_repeats()],
    )
    assert report.ok, report.explain()
