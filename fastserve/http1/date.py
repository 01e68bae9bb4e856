"""IMF-fixdate, the one form of a date that is sent (RFC 9110 5.6.7)."""

from __future__ import annotations

from time import struct_time

__all__ = ["imf_fixdate"]

# Not strftime, which writes the names in the language of the process's locale.
_days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def imf_fixdate(gmt: struct_time) -> str:
    """``Sun, 06 Nov 1994 08:49:37 GMT``."""
    return (
        f"{_days[gmt.tm_wday]}, {gmt.tm_mday:02} {_months[gmt.tm_mon - 1]} {gmt.tm_year:04}"
        f" {gmt.tm_hour:02}:{gmt.tm_min:02}:{gmt.tm_sec:02} GMT"
    )
