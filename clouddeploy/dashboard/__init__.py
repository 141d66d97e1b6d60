"""The web application: invite, collect, approve, freeze, hand out kits; needs the extra `dashboard`."""
