"""What a community gets of a sale: platform fee, gateway cost, withholding, and the payable that is left.

Community money goes payer -> gateway -> the community's payable and never through a credit wallet. Rates are
arguments in basis points: they are dated data.
"""

from dataclasses import dataclass
from typing import Final

from domain.gst import GST_RATE_BP, GstSplit, split_exclusive
from domain.money import BASIS_POINTS, Paise, div_half_up
from domain.postings import Account, Legs, legs_of


@dataclass(frozen=True, slots=True)
class Withholding:
    """Tax kept back from a supplier, basis points of the net taxable supply (TCS) and of gross sales (TDS).

    Source: CGST Act 2017, s. 52 (registered suppliers only); Income-tax Act 1961, ss. 194-O and 206AA.
    """

    tcs_bp: int
    tds_bp: int


REGISTERED: Final = Withholding(tcs_bp=50, tds_bp=10)
UNREGISTERED: Final = Withholding(tcs_bp=0, tds_bp=10)
WITHOUT_PAN: Final = Withholding(tcs_bp=0, tds_bp=500)


@dataclass(frozen=True, slots=True)
class CommunitySale:
    """One sale of a community, in paise: the parts sum to `gross_paise`."""

    gross_paise: Paise
    fee: GstSplit
    gateway: GstSplit
    tcs_paise: Paise
    tds_paise: Paise

    @property
    def payable_paise(self) -> Paise:
        """What the community is owed; its own GST on the sale is in it, to be remitted by itself."""
        kept = self.fee.total_paise + self.gateway.total_paise + self.tcs_paise + self.tds_paise
        return self.gross_paise - kept


def community_sale(
    sale: GstSplit,
    *,
    fee_bp: int,
    gateway_fee_paise: Paise,
    withholding: Withholding,
    fee_inter_state: bool,
    gst_rate_bp: int = GST_RATE_BP,
) -> CommunitySale:
    """Share out one sale: our fee is `fee_bp` of its taxable value plus GST, the gateway's cost is passed on.

    Both withholdings are on the value before GST.
    """

    def share(rate_bp: int) -> Paise:
        return div_half_up(sale.taxable_paise * rate_bp, BASIS_POINTS)

    return CommunitySale(
        gross_paise=sale.total_paise,
        fee=split_exclusive(share(fee_bp), rate_bp=gst_rate_bp, inter_state=fee_inter_state),
        gateway=split_exclusive(gateway_fee_paise, rate_bp=gst_rate_bp, inter_state=fee_inter_state),
        tcs_paise=share(withholding.tcs_bp),
        tds_paise=share(withholding.tds_bp),
    )


def postings_of(sale: CommunitySale) -> Legs:
    """The sale's double entry: what the gateway owes us, shared out."""
    return legs_of(
        (Account.GATEWAY_CLEARING, sale.gross_paise),
        (Account.PLATFORM_FEE, -sale.fee.taxable_paise),
        (Account.GATEWAY_COST_RECOVERED, -sale.gateway.taxable_paise),
        (Account.CGST_PAYABLE, -(sale.fee.cgst_paise + sale.gateway.cgst_paise)),
        (Account.SGST_PAYABLE, -(sale.fee.sgst_paise + sale.gateway.sgst_paise)),
        (Account.IGST_PAYABLE, -(sale.fee.igst_paise + sale.gateway.igst_paise)),
        (Account.TCS_PAYABLE, -sale.tcs_paise),
        (Account.TDS_PAYABLE, -sale.tds_paise),
        (Account.COMMUNITY_PAYABLE, -sale.payable_paise),
    )
