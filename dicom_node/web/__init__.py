"""The worklist page and the JSON API: `prognode web`. Reads the store; acts only through `operations`.

`app.create_app` hangs the routers of the modules on the application, by these names: `signin.router`, `pages.router`,
`images.router`, `live.router`, `clinical.router`, `fhir.router`, `api.router`. An endpoint takes what it needs from
`deps`: StoreDep, SpoolDep, SettingsDep, Viewer or Operator (signed in, role and CSRF checked), `templates`; it raises
`errors.Problem` with a sentence and a remedy. Templates that `signin` and `errors` render: signin.html (name, next,
oidc, csrf, detail; posts name, password, next, csrf to /signin; /signin/oidc?next= where oidc) and error.html (status,
detail, remedy).
"""
