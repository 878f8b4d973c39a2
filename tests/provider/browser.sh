#!/bin/sh
# Goes through an identity provider's pages as the person $WHO would: sends every form off until there is none.
# $CA: whom to trust. The address comes as the argument.
set -u
jar=$(mktemp)
trap 'rm -f "$jar"' EXIT
ask() { curl -sS -L --max-time 20 --cacert "$CA" -b "$jar" -c "$jar" "$@"; }
page=$(ask "$1")
for _ in 1 2 3 4 5 6; do
    form=$(printf '%s' "$page" | sed -n 's/.*action="\([^"]*\)".*/\1/p' | head -n 1)
    [ -n "$form" ] || break
    hidden=$(printf '%s' "$page" | sed -n 's/.*type="hidden" name="\([^"]*\)" value="\([^"]*\)".*/\1=\2/p')
    set -- -d "login=$WHO" -d "password=x" -d "confirm=yes"
    for field in $hidden; do set -- "$@" -d "$field"; done
    page=$(ask "$@" "$form")
done
printf '%s\n' "$page"
