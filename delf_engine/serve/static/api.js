// Asking the API, and what its refusals mean to a person.
const WORDS = {
  busy: "The server is busy: too much is waiting.",
  too_slow: "The server took too long.",
  locked: "Somebody else is changing the library just now.",
  stopping: "The server is going down.",
  bad_photograph: "This photograph cannot be used:",
  too_large: "This is too large:",
  read_only: "This server is read-only.",
  too_few_pairs: "There are too few verdicts: give at least ten of pairs of one place, and ten of others.",
  empty_folder: "There is no photograph in this folder.",
  no_files: "None of the photographs has its file any more.",
}

/** A request that was refused, failed, or never arrived. */
export class Problem extends Error {
  constructor(status, code, detail, wait) {
    super(detail)
    Object.assign(this, {status, code, wait})
  }

  /** Whether asking again may help. */
  get passing() { return [0, 408, 429, 500, 503].includes(this.status) }

  /** What to tell a person. */
  get words() {
    const known = WORDS[this.code]
    if (this.status === 0) return "The server cannot be reached. Is it running, and are you connected to it?"
    if (this.code === "unknown_image") return "There is no such photograph: it was removed, or this upload has expired after a day. Choose it again."
    const said = known?.endsWith(".") ? known : known ? `${known} ${this.message}.` : sentence(this.message)
    return this.wait ? `${said} Try again in ${this.wait} ${this.wait === 1 ? "second" : "seconds"}.` : said
  }
}

/** What the code of a job that has failed means. */
export const reason = (code) => WORDS[code] ?? "The job has failed; the log of the server says why."

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".")

/** Ask, and return the JSON of the answer; a `Problem` if there is none. Without a login, go there. */
export async function ask(path, {method = "GET", params, form, json, signal} = {}) {
  const headers = json ? {"Content-Type": "application/json"} : {}
  let answer
  try {
    answer = await fetch(address(path, params), {method, signal, headers, body: json ? JSON.stringify(json) : form})
  } catch (error) {
    if (error.name === "AbortError") throw error
    throw new Problem(0, "unreachable", "The server cannot be reached")
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json()
  const body = await answer.json().catch(() => ({}))
  if (body.code === "no_token") {
    location.assign(address("/login", {next: location.pathname + location.search}))
    await new Promise(() => {}) // the page is being left
  }
  const wait = Number(answer.headers.get("Retry-After"))
  throw new Problem(answer.status, body.code, body.detail ?? `the server answered ${answer.status}`, wait)
}

/** A path with its query; what is null, undefined or empty is left out. */
export function address(path, params = {}) {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(params))
    for (const each of [value].flat()) if (each !== null && each !== undefined && each !== "") query.append(name, each)
  return String(query) ? `${path}?${query}` : path
}

export const pictureOf = (ref, side) => address("/v1/photograph", {id: ref, side})

let known
/** What the server is and takes, asked for once. */
export const info = () => (known ??= ask("/v1/info").catch((error) => { known = undefined; throw error }))

/** A `Problem` if a file is larger than the server takes: sending all of it would end in a broken connection. */
export async function checkSize(file) {
  const {max_bytes: most} = await info()
  if (file.size > most) throw new Problem(413, "too_large", `a photograph has ${megabytes(most)} at most, this one ${megabytes(file.size)}`)
}

export const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 2 : 1)} MB`
