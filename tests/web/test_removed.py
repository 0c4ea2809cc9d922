"""The pages of a study whose files retention has removed: they say so, and nothing of the server fails."""

import re
from contextlib import closing
from pathlib import Path

from fastapi.routing import APIRoute

from dicom_node.storage import Cleaner
from dicom_node.web import api, clinical, fhir, images, pages
from tests.kept import delivered
from tests.web.site import serving


def test_no_page_and_no_picture_fails_when_the_files_are_gone(tmp_path: Path) -> None:
    made = delivered(tmp_path, days=900)
    (item,) = made.items
    removed = list(Cleaner(made.store, made.spool, made.settings, made.clock).everything())
    assert removed == ["received", "results", "identity", "search index"]
    made.store.close()
    names = {"study_instance_uid": item.study_instance_uid, "document": "risk-sr", "kind": "RiskAssessment"}
    routers = (pages.router, images.router, clinical.router, api.router, fhir.router)
    paths = [
        route.path
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in route.methods and "{" in route.path
    ]
    assert len(paths) > 5
    with serving(tmp_path) as site, closing(site.signed_in()) as client:
        for path in paths:
            filled = re.sub(r"\{([a-z_]+)[^}]*\}", lambda found: names.get(found[1], "1"), path)
            answer = client.get(filled)
            assert answer.status_code < 500, f"{path}: {answer.status_code} {answer.text[:300]}"
        page = client.get(f"/studies/{item.study_instance_uid}", follow_redirects=True)
        assert page.status_code == 200
        assert "web.bug" not in site.log
