// GETs a URL many times by undici, and fails unless every answer is right.
//
//     node undici_get.cjs URL N CONNECTIONS
'use strict'

const { Pool } = require('undici')

const PONG = '{"message":"pong"}'

async function main (url, n, connections) {
  const { origin, pathname, search } = new URL(url)
  const path = pathname + search
  const pool = new Pool(origin, { connections })
  let taken = 0
  async function worker () {
    while (taken < n) {
      taken++
      const { statusCode, body } = await pool.request({ path, method: 'GET' })
      const text = await body.text()
      if (statusCode !== 200 || text !== PONG) {
        throw new Error(`an answer with status ${statusCode} and body ${text}`)
      }
    }
  }
  await Promise.all(Array.from({ length: connections }, worker))
  await pool.close()
  console.log(n, 'answers')
}

const [url, n, connections] = process.argv.slice(2)
main(url, Number(n), Number(connections)).catch(error => {
  console.error(error)
  process.exit(1)
})
