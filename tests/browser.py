"""A page in a real browser, with what its tests need."""

import json
from pathlib import Path

READY = "return document.getElementById('overview').dataset.drawn === 'all'"


class Page:
    """One page open in the browser, with what its tests need."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address.as_uri() if isinstance(address, Path) else address

    def open(self, place="", *, width=1400, height=900, dark=False):
        self.driver.get("about:blank")
        for log in ("performance", "browser"):
            self.driver.get_log(log)
        self.command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.address + place)
        if place == "#overview" or (not place and self.address.startswith("file:")):
            self.until(READY)
        return self

    def command(self, name, values):
        return self.driver.execute_cdp_cmd(name, values)

    def js(self, script):
        return self.driver.execute_script(script)

    def until(self, script):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(
            lambda d: d.execute_script(script)
        )

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def press(self, key):
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    def shown(self):
        rows = self.js(
            "return [...document.querySelectorAll('#list tbody tr')].map(r => r.dataset.k)"
        )
        return [int(k) for k in rows]

    def messages(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            e["params"]["request"]["url"]
            for e in entries
            if e["method"] == "Network.requestWillBeSent"
        ]
