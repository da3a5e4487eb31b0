from decimal import Decimal

from examples.c_payments import Balance, Payment, balances, job, payments
from streamcore.testing import Driver


def test_a_payment_sent_twice_counts_once_even_over_a_crash() -> None:
    with Driver(job) as driver:
        payment = Payment("p1", "ann", Decimal("9.50"))
        driver.send(payments, payment, payment, key="p1")
        driver.crash(at="after-commit")
        driver.send(payments, payment, key="p1")
        driver.send(payments, Payment("p2", "ann", Decimal("0.50")), key="p2")
        assert driver.read_items(balances)[-1] == ("ann", Balance("ann", Decimal("10.00")))


def test_what_cannot_be_processed_becomes_a_dead_letter_with_its_story() -> None:
    with Driver(job) as driver:
        driver.send(payments, Payment("p1", "ann", Decimal(1), "XXX"), key="p1")
        driver.send_raw(payments, b"{", key=b"p2")
        driver.send(payments, Payment("p3", "ann", Decimal(2)), key="p3")
        assert driver.read_items(balances) == [("ann", Balance("ann", Decimal(2)))]
        letters = driver.read_raw("payments.dlq")
        values = [value for run in letters for value in run.values]
        assert sorted(values, key=str) == sorted(
            [b"{", b'{"payment_id":"p1","account":"ann","amount":"1","currency":"XXX"}'], key=str
        )
