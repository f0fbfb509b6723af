"""Clicks that are counted: how far something is from the dashboard is a number, and a number can be kept."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Locator, Page


@dataclass(kw_only=True)
class Visitor:
    """Somebody who has logged in, sees the dashboard, and does a task in `most` clicks or fewer.

    A choice from a menu counts as a click. Text that is typed, and the Enter key after it, do not.
    """

    page: Page
    most: int
    made: int = 0

    @classmethod
    def at_dashboard(cls, page: Page, *, most: int) -> Visitor:
        page.goto("/admin/")
        return cls(page=page, most=most)

    def click(self, target: Locator) -> None:
        """Click the one control that matches, and count it. Fails before the click that is one too many."""
        self.made += 1
        assert self.made <= self.most, f"click {self.made} of at most {self.most}"
        target.click()
