// Logging in: the token is sent once, and the server sets a cookie.
import {ask} from "./api.js"
import {$, attempt} from "./ui.js"

/** Go where the login was asked for: a path of this server only. */
function goOn() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin)
  const own = ["/", "/compare", "/library", "/verdicts"].includes(next.pathname) && next.origin === location.origin
  location.replace(own ? next : "/")
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault()
  const form = new FormData($("login"))
  $("token").value = ""
  $("token").focus()
  attempt(async () => {
    await ask("/login", {method: "POST", form})
    goOn()
  })
})
